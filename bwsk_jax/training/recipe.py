"""The training recipe of each preset, as data.

`base` and `mini` follow the reference. `demo` has shorter windows, larger batches and a higher rate, so that
two CPU cores learn something real in minutes. What is not a field here is the same for all presets.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """Everything about a run's schedule that a preset may choose."""

    seq_len: int = 512
    batch_size: int = 4
    grad_accum: int = 4
    epochs: int = 5
    finetune_lr: float = 5e-5
    scratch_lr: float = 3e-4
    dropout: float = 0.1
    """For a model from scratch; one that is fine-tuned has its own."""
    initializer_range: float = 0.02
    """Standard deviation of the parameters of a model from scratch. 0.02 suits a width of 768."""
    validate_every: int = 500
    """Optimizer steps between validations; each epoch's end is validated as well."""
    patience: int = 3
    """Validations in a row without a new best after which training stops."""

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one optimizer step sees."""
        return self.grad_accum * self.batch_size * self.seq_len


IN_RECIPE = ("seq_len", "batch_size", "grad_accum", "epochs")
"""The fields that a flag of the same name replaces."""
RECIPES = {
    "demo": Recipe(
        seq_len=64,
        batch_size=32,
        grad_accum=1,
        epochs=30,
        scratch_lr=1.5e-3,
        dropout=0.0,
        initializer_range=0.06,
        patience=8,
    ),
    "mini": Recipe(),
    "base": Recipe(),
}
