"""From flags to everything a run needs, checked, before anything is written."""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bwsk_jax import bert
from bwsk_jax.training.corpus import DatasetError, load_corpus
from bwsk_jax.training.evaluation import EvaluationSet, evaluation_set, unigram_perplexity
from bwsk_jax.training.loop import steps_per_epoch
from bwsk_jax.training.options import Options
from bwsk_jax.training.recipe import RECIPES, Recipe
from bwsk_jax.training.sources import model_folder, tokenizer_path, with_default_sources
from bwsk_jax.training.token_cache import cached_tokens
from bwsk_jax.training.windows import cut_windows
from bwsk_jax.training.writable import check_writable
from bwsk_jax.variants import Variant, find_variant

DTYPES = {"float32": jnp.float32, "bf16": jnp.bfloat16, "fp16": jnp.float16}
# Steps are counted in 32 bits.
MOST_STEPS = 2**31 - 1
# Word embeddings are often padded to a multiple of one of these, because it is faster.
PADDED_TO = (8, 16, 32, 64, 128)


class SettingError(ValueError):
    """Flags that contradict each other, the model or the file system."""


@dataclass(frozen=True)
class Setup:
    """A run that can start: `params` are its first parameters, `plan` that of one encoder layer."""

    options: Options
    variant: Variant
    recipe: Recipe
    peak_lr: float
    total_steps: int
    config: bert.BertConfig
    params: Any
    tokenizer: Any
    train_windows: np.ndarray
    validation: EvaluationSet
    test: EvaluationSet
    unigram_perplexity: float
    dtype: Any
    scan: Callable
    plan: Any | None
    notes: tuple[str, ...] = ()
    """What the user should know before the run starts, a line each."""

    @property
    def root(self) -> Path:
        """The folder that gathers the variants."""
        return Path(self.options.out)

    @property
    def folder(self) -> Path:
        """The folder of this variant."""
        return self.root / self.variant.name

    @property
    def log_folder(self) -> Path | None:
        """The folder of this variant's TensorBoard events, if any are wanted."""
        return self.options.log_dir and Path(self.options.log_dir, self.variant.name)

    @property
    def tokens_per_step(self) -> int:
        """Tokens that an optimizer step sees."""
        return self.recipe.grad_accum * self.recipe.batch_size * self.recipe.seq_len

    @property
    def model_slug(self) -> str:
        """The model's short name, as in the results."""
        return f"bert-{self.options.preset}"

    @property
    def settings(self) -> dict[str, Any]:
        """Flags and recipe as resolved, for the results."""
        return {
            "preset": self.options.preset,
            "dataset": self.options.dataset,
            "tokenizer": self.options.tokenizer,
            "init": self.options.init,
            "seq_len": self.recipe.seq_len,
            "batch_size": self.recipe.batch_size,
            "grad_accum": self.recipe.grad_accum,
            "epochs": self.recipe.epochs,
            "planned_steps": self.total_steps,
            "lr": self.peak_lr,
            "dropout": self.config.hidden_dropout_prob,
            "precision": self.options.precision,
            "seed": self.options.seed,
        }


def prepare(options: Options) -> Setup:
    """Resolve `options` into a `Setup`. Writes nothing.

    Raises `UnknownVariantError`, `SettingError`, `SourceError`, `DatasetError` or an error of `bwsk_jax.bert`
    or the planner, each with a message for the user.
    """
    variant = find_variant(options.variant)
    _check(options, variant)
    options = with_default_sources(options, variant)
    recipe = _resolve(RECIPES[options.preset], options)
    init = options.init and model_folder(options.init)
    tokenizer_at = init if options.tokenizer == options.init else tokenizer_path(options.tokenizer)
    corpus = load_corpus(options.dataset)
    tokenizer = _tokenizer(options, tokenizer_at, corpus.train)
    config, params, notes = _model(options, recipe, init, tokenizer)
    if recipe.seq_len > config.max_position_embeddings:
        raise SettingError(
            f"--seq-len {recipe.seq_len} is beyond the model's {config.max_position_embeddings} positions"
        )

    tokens = {
        split: cached_tokens(tokenizer, text, label=f"{split} text")
        for split, text in dataclasses.asdict(corpus).items()
    }
    train_windows = cut_windows(tokens["train"], recipe.seq_len, recipe.seq_len, split="train")
    stride = max(1, recipe.seq_len // 2)
    validation, test = (
        evaluation_set(cut_windows(tokens[split], recipe.seq_len, stride, split=split))
        for split in ("validation", "test")
    )
    epoch_steps = steps_per_epoch(len(train_windows), recipe)
    if epoch_steps == 0:
        raise DatasetError(
            f"the train text has {len(train_windows)} windows of {recipe.seq_len} tokens, fewer than "
            f"one step of --batch-size {recipe.batch_size} x --grad-accum {recipe.grad_accum}"
        )
    total_steps = epoch_steps * recipe.epochs
    total_steps = min(total_steps, options.max_steps or total_steps)
    if total_steps > MOST_STEPS:
        raise SettingError(f"--epochs {recipe.epochs} are {total_steps} steps, more than {MOST_STEPS}")
    dtype = DTYPES[options.precision]
    return Setup(
        options=options,
        variant=variant,
        recipe=recipe,
        peak_lr=options.lr or (recipe.finetune_lr if variant.experiment == "finetune" else recipe.scratch_lr),
        total_steps=total_steps,
        config=config,
        params=params,
        tokenizer=tokenizer,
        train_windows=train_windows,
        validation=validation,
        test=test,
        unigram_perplexity=unigram_perplexity(tokens["train"], validation, config.vocab_size),
        dtype=dtype,
        scan=_scan(options, variant),
        plan=_plan(options, variant, recipe, config, params, dtype),
        notes=notes,
    )


def _check(options: Options, variant: Variant) -> None:
    limits = [name for name in ("max_overhead", "max_bytes") if getattr(options, name) is not None]
    if len(limits) == 2:
        raise SettingError("--max-overhead and --max-bytes are both given: give at most one limit")
    if limits and not variant.plans:
        raise SettingError(f"--{limits[0].replace('_', '-')} limits a plan, and {variant.name} has none")
    if variant.experiment == "scratch" and options.init is not None:
        raise SettingError(
            f"{variant.name} starts from random parameters: drop --init, or use a finetune variant"
        )
    for flag, folder in (("--out", options.out), ("--log-dir", options.log_dir)):
        if folder is not None:
            _check_writable(flag, Path(folder), variant)
    card = Path(options.out, "README.md")
    if card.is_file() and not card.read_bytes().startswith(b"---\n"):
        raise SettingError(f"--out {options.out}: its README.md is no model card and would be overwritten")


def _check_writable(flag: str, root: Path, variant: Variant) -> None:
    try:
        check_writable(root)
        check_writable(root / variant.name)
    except OSError as error:
        raise SettingError(f"{flag} {root} cannot be written: {error.strerror}") from None


def _resolve(recipe: Recipe, options: Options) -> Recipe:
    given = {
        name: value
        for name in ("seq_len", "batch_size", "grad_accum", "epochs")
        if (value := getattr(options, name)) is not None
    }
    return dataclasses.replace(recipe, **given)


def _tokenizer(options: Options, path: Path | None, train_text: str):
    if path is not None:
        tokenizer = bert.load_tokenizer(path)
    else:
        preset = bert.PRESETS[options.preset]
        tokenizer = bert.train_tokenizer(train_text.splitlines(), vocab_size=preset.vocab_size)
        tokenizer.model_max_length = preset.max_position_embeddings
    if tokenizer.mask_token_id is None:
        raise SettingError(f"--tokenizer {options.tokenizer}: it has no mask token")
    return tokenizer


def _model(
    options: Options, recipe: Recipe, init: Path | None, tokenizer
) -> tuple[bert.BertConfig, Any, tuple[str, ...]]:
    if init is not None:
        config, params, fresh = bert.load_for_finetuning(init, jax.random.key(options.seed))
        if not vocabulary_fits(len(tokenizer), config.vocab_size):
            raise SettingError(
                f"the tokenizer in {options.tokenizer} has {len(tokenizer)} pieces, but the model in "
                f"{options.init} has {config.vocab_size}: they do not belong together"
            )
        said = (
            f"{options.init} has no masked-LM head: its {len(fresh)} tensors start from --seed {options.seed}"
        )
        return config, params, (said,) if fresh else ()
    config = dataclasses.replace(
        bert.PRESETS[options.preset],
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        hidden_dropout_prob=recipe.dropout,
        attention_probs_dropout_prob=recipe.dropout,
        initializer_range=recipe.initializer_range,
    )
    init_params = jax.jit(bert.init_params, static_argnums=0)
    return config, init_params(config, jax.random.key(options.seed)), ()


def vocabulary_fits(pieces: int, rows: int) -> bool:
    """Whether a model of `rows` word embeddings belongs to `pieces`: as many, or padded to a round number.

    >>> vocabulary_fits(30522, 30522), vocabulary_fits(30522, 30528), vocabulary_fits(2048, 30522)
    (True, True, False)
    """
    return pieces == rows or rows in {-(-pieces // multiple) * multiple for multiple in PADDED_TO}


def _scan(options: Options, variant: Variant) -> Callable:
    if not variant.inverts:
        return jax.lax.scan
    import bwsk_jax

    return functools.partial(
        bwsk_jax.reversible_scan, max_overhead=options.max_overhead, max_bytes=options.max_bytes
    )


def _plan(options: Options, variant: Variant, recipe: Recipe, config: bert.BertConfig, params, dtype):
    if not variant.plans:
        return None
    import bwsk_jax

    hidden_bth = jax.ShapeDtypeStruct((recipe.batch_size, recipe.seq_len, config.hidden_size), dtype)
    layer = jax.tree.map(lambda stack: jax.ShapeDtypeStruct(stack.shape[1:], stack.dtype), params["layers"])
    key = jax.eval_shape(lambda: jax.random.key(0, impl="rbg"))
    return bwsk_jax.plan_scan(
        bert.layer_body(config, dtype=dtype, train=True),
        hidden_bth,
        (layer, key),
        max_overhead=options.max_overhead,
        max_bytes=options.max_bytes,
        length=config.num_hidden_layers,
    )
