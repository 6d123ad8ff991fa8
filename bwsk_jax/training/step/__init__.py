"""One optimizer step, and the measure of a model between the steps.

`masking` draws which tokens are hidden and computes the loss of predicting them. `optimizer` holds AdamW with
its schedule, and the loss scale of float16. `train_step` puts them together into one compiled call that
updates its state in place, and `placement` spreads it over several devices. `evaluation` measures
perplexities on held-out text.
"""
