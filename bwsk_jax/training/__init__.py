"""Training: data, loss, optimizer, evaluation, checkpoints and the loop."""
