"""From the name of a dataset to batches of token ids.

`text` holds what a corpus is, rows that are read when they are asked for, and reads the plain ones: the text
that ships with Python, and folders of text files. `hub` asks the Hugging Face Hub or its local cache, without
ever waiting long, and `hub_datasets` reads text through the `datasets` library. `held_out` takes splits that
are missing off the training split. `corpus` decides which of these a name means; `sources` does the same for
models and tokenizers, and `pretrained` loads both. `tokens` turns a text into token ids, once, and keeps them
on disk, as `cache` keeps digests of files. `windows` gathers windows and batches from there.
"""
