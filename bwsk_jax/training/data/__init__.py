"""From the name of a dataset to batches of token ids.

`text` holds what a corpus is and reads the plain ones: the text that ships with Python, and folders of text
files. `hub` asks the Hugging Face Hub or its local cache, without ever waiting long, and `hub_datasets` reads
text through the `datasets` library. `corpus` decides which of these a name means; `sources` does the same for
models and tokenizers, and `pretrained` loads both. `tokens` turns a text into token ids, once, and `windows`
cuts them into windows and batches.
"""
