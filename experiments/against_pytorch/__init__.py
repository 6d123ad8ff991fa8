"""The same training step of the same BERT by transformers and PyTorch, and by this package.

`theirs` has the steps of PyTorch, `ours` those of JAX. The program `python -m experiments.against_pytorch`
runs them in turns.
"""
