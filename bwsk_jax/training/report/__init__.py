"""What a run leaves in writing, and what it prints at its end.

`metrics` measures the exported model. `results` writes training_results.json and loss.png for one run, and
results.json for all that share an output folder. `export` has that folder load as the best of them, and
`card` writes their model card. `origin` is what results and card may say in public of model and text.
`push` uploads all that to the Hub. `loading` shows that transformers loads the export, and `summary` prints
the closing table.
"""
