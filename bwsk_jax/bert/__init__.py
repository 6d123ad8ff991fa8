"""BERT as Flax Linen modules, and its exchange with Hugging Face."""
