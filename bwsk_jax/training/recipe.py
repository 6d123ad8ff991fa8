"""The training recipes of each preset, as data.

`reference` follows the system that this package reimplements. From scratch it stays near what the frequencies
of the tokens alone give. `best` leaves that behind on the same text, with the same model and the same metric:
short windows, positions that start as sinusoids, and for `demo` and `mini` a high rate and no dropout.
"""

import dataclasses
from dataclasses import dataclass

SCHEDULES = ("cosine", "linear", "exponential", "constant")
"""How the learning rate goes on after its warm-up, each as optax has it."""

POSITIONS = ("drawn", "sinusoids")
"""What the embedding of positions starts from; see `bwsk_jax.training.step.positions`."""


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
    positions: str | None = "drawn"
    """One of `POSITIONS`; None is those of the model which is fine-tuned."""
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
REFERENCE = Recipe()
_BEST = Recipe(
    seq_len=32,  # so short that what predicts a token is found sooner
    batch_size=64,
    grad_accum=1,
    epochs=10,
    scratch_lr=1.5e-3,
    dropout=0.0,
    initializer_range=0.06,
    positions="sinusoids",
    patience=8,
)
RECIPES = {
    "reference": {"mini": REFERENCE, "base": REFERENCE},
    "best": {
        # Its text is so small that it is read thirty times: steps and masks have to make up for it.
        "demo": dataclasses.replace(
            _BEST, seq_len=64, batch_size=16, mask_rate=0.25, weight_decay=0.1, epochs=30
        ),
        "mini": dataclasses.replace(_BEST, scratch_lr=1e-3, initializer_range=0.04),
        "base": dataclasses.replace(
            _BEST, seq_len=128, batch_size=32, scratch_lr=2e-4, initializer_range=0.02, dropout=0.1
        ),
    },
}
"""The recipes by name, and by the presets that they are for."""


def default_recipe(preset: str) -> str:
    """Return the name of the recipe that a preset has if none is given: `reference` if it has that.

    >>> default_recipe("demo"), default_recipe("base")
    ('best', 'reference')
    """
    return next(name for name, presets in RECIPES.items() if preset in presets)


def recipe_of(preset: str, experiment: str, name: str | None = None) -> Recipe:
    """Return the preset's recipe of this name for an experiment, by default that of `default_recipe`.

    A model that is fine-tuned has a dropout and positions of its own.

    >>> recipe_of("base", "scratch").dropout, recipe_of("base", "finetune").dropout
    (0.1, None)
    """
    recipe = RECIPES[name or default_recipe(preset)][preset]
    own = {"dropout": None, "positions": None} if experiment == "finetune" else {}
    return dataclasses.replace(recipe, **own)
