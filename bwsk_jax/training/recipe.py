"""The training recipe of each preset, as data.

`base` and `mini` follow the reference. `demo` has shorter windows, larger batches and a higher rate, so that
two CPU cores learn something real in minutes.
"""

import dataclasses
from dataclasses import dataclass

SCHEDULES = ("cosine", "linear", "exponential", "constant")
"""How the learning rate goes on after its warm-up, each as optax has it."""


@dataclass(frozen=True)
class Recipe:
    """Everything about a run that a preset may choose, apart from the model."""

    seq_len: int = 512
    batch_size: int = 4
    grad_accum: int = 4
    epochs: int = 5
    finetune_lr: float = 5e-5
    scratch_lr: float = 3e-4
    schedule: str = "cosine"
    warmup: float = 0.1
    """The share of the steps over which the learning rate rises."""
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.999
    clip: float = 1.0
    """The global norm that the gradient is clipped to."""
    mask_rate: float = 0.15
    """The share of the tokens that are to be predicted in training. Evaluation masks 15% always."""
    dropout: float | None = 0.1
    """None is that of the model which is fine-tuned."""
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


LEARNING_RATES = {"finetune": "finetune_lr", "scratch": "scratch_lr"}
"""The field of each experiment that `--lr` replaces."""
PRESET_ONLY = (*LEARNING_RATES.values(), "initializer_range")
IN_RECIPE = tuple(field.name for field in dataclasses.fields(Recipe) if field.name not in PRESET_ONLY)
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


def recipe_of(preset: str, experiment: str) -> Recipe:
    """Return the preset's recipe for an experiment. A model that is fine-tuned has a dropout of its own.

    >>> recipe_of("base", "scratch").dropout, recipe_of("base", "finetune").dropout
    (0.1, None)
    """
    recipe = RECIPES[preset]
    return dataclasses.replace(recipe, dropout=None) if experiment == "finetune" else recipe
