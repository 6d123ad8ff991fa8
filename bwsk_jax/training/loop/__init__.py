"""The training loop, and what lets a run be stopped at any moment and go on bit for bit.

`fit` takes the steps and validates on the way; `history` is what happened, and `callbacks` are told of it.
`checkpoints` keeps the state and the history on disk. `interruption` turns a signal into an orderly end.
`event_log` is the callback that writes for TensorBoard.
"""
