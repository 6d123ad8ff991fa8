"""From flags to everything a run needs, checked, before anything is written."""

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bwsk_jax import bert
from bwsk_jax.training.byte_sizes import parse_bytes
from bwsk_jax.training.corpus import DatasetError, load_corpus
from bwsk_jax.training.evaluation import EvaluationSet, HeldOut, evaluation_set, unigram_perplexity
from bwsk_jax.training.exact import ExactSet
from bwsk_jax.training.loop import steps_per_epoch
from bwsk_jax.training.options import Options
from bwsk_jax.training.recipe import RECIPES, Recipe
from bwsk_jax.training.sources import model_folder, tokenizer_path, with_default_sources
from bwsk_jax.training.step_setup import StepSetup
from bwsk_jax.training.token_cache import cached_tokens
from bwsk_jax.training.windows import cut_windows
from bwsk_jax.training.writable import check_writable
from bwsk_jax.variants import Variant, find_variant

# Steps are counted in 32 bits.
MOST_STEPS = 2**31 - 1
# Word embeddings are often padded to a multiple of one of these, because it is faster.
PADDED_TO = (8, 16, 32, 64, 128)


class SettingError(ValueError):
    """Flags that contradict each other, the model or the file system."""


@dataclass(frozen=True)
class Setup(StepSetup):
    """A run that can start: its step, and `params`, its first parameters."""

    params: Any
    tokenizer: Any
    train_windows: np.ndarray
    validation: EvaluationSet
    test: EvaluationSet
    final_validation: HeldOut
    """What the exported model is measured on, as the final_test."""
    final_test: HeldOut
    unigram_perplexity: float
    """On the masked tokens of `validation`; the next two on those of the final sets."""
    final_validation_unigram: float
    final_test_unigram: float
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
            "masking": self.options.masking,
            "eval_metric": self.options.eval_metric,
            "precision": self.options.precision,
            "seed": self.options.seed,
        }


def prepare(options: Options) -> Setup:
    """Resolve `options` into a `Setup`. Writes nothing.

    Raises `UnknownVariantError`, `SettingError`, `SourceError`, `DatasetError` or an error of `bwsk_jax.bert`
    or the planner, each with a message for the user.
    """
    variant, options, recipe = settle(options)
    init = options.init and model_folder(options.init)
    tokenizer_at = init if options.tokenizer == options.init else tokenizer_path(options.tokenizer)
    corpus = load_corpus(options.dataset)
    tokenizer = make_tokenizer(options, tokenizer_at, corpus.train)
    config = model_config(options, recipe, init and bert.load_config(init), tokenizer)
    params, notes = _first_params(options, config, init)

    tokens = {
        split: cached_tokens(tokenizer, text, label=f"{split} text")
        for split, text in dataclasses.asdict(corpus).items()
    }
    train_windows = cut_train_windows(tokens["train"], recipe)
    stride = max(1, recipe.seq_len // 2)
    validation, test = (
        evaluation_set(cut_windows(tokens[split], recipe.seq_len, stride, split=split))
        for split in ("validation", "test")
    )
    final_validation, final_test = validation, test
    if options.eval_metric == "exact":
        final_validation, final_test = (
            ExactSet(tokens[split], recipe.seq_len) for split in ("validation", "test")
        )
    unigram = functools.partial(unigram_perplexity, tokens["train"], vocab_size=config.vocab_size)
    return Setup(
        options=options,
        variant=variant,
        recipe=recipe,
        config=config,
        mask_id=tokenizer.mask_token_id,
        pieces=len(tokenizer),
        total_steps=planned_steps(options, recipe, len(train_windows)),
        params=params,
        tokenizer=tokenizer,
        train_windows=train_windows,
        validation=validation,
        test=test,
        final_validation=final_validation,
        final_test=final_test,
        unigram_perplexity=unigram(validation),
        final_validation_unigram=unigram(final_validation),
        final_test_unigram=unigram(final_test),
        notes=notes,
    )


def settle(options: Options) -> tuple[Variant, Options, Recipe]:
    """Check the flags by themselves; return their variant, themselves with sources, and their recipe.

    Raises `UnknownVariantError` or `SettingError`.
    """
    variant = find_variant(options.variant)
    _check(options, variant)
    return variant, with_default_sources(options, variant), _resolve(RECIPES[options.preset], options)


def make_tokenizer(options: Options, path: Path | None, train_text: str):
    """Load the tokenizer at `path`, or train it where that is None."""
    if path is not None:
        tokenizer = bert.load_tokenizer(path)
    else:
        preset = bert.PRESETS[options.preset]
        tokenizer = bert.train_tokenizer(train_text.splitlines(), vocab_size=preset.vocab_size)
        tokenizer.model_max_length = preset.max_position_embeddings
    if tokenizer.mask_token_id is None:
        raise SettingError(f"--tokenizer {options.tokenizer}: it has no mask token")
    return tokenizer


def model_config(
    options: Options, recipe: Recipe, init: bert.BertConfig | None, tokenizer: Any | None
) -> bert.BertConfig:
    """Return the configuration to train: `init`'s, else the preset's, with the tokenizer's vocabulary.

    Without a tokenizer the vocabulary is not checked, and the preset's from scratch. Raises `SettingError`.
    """
    config = init or _scratch_config(options, recipe, tokenizer)
    if tokenizer is not None and not vocabulary_fits(len(tokenizer), config.vocab_size):
        raise SettingError(
            f"the tokenizer in {options.tokenizer} has {len(tokenizer)} pieces, but the model in "
            f"{options.init} has {config.vocab_size}: they do not belong together"
        )
    if recipe.seq_len > config.max_position_embeddings:
        raise SettingError(
            f"--seq-len {recipe.seq_len} is beyond the model's {config.max_position_embeddings} positions"
        )
    return config


def cut_train_windows(tokens: np.ndarray, recipe: Recipe) -> np.ndarray:
    """Return int32 [W, T], enough for one step at least. Raises `DatasetError`."""
    windows = cut_windows(tokens, recipe.seq_len, recipe.seq_len, split="train")
    if steps_per_epoch(len(windows), recipe) == 0:
        raise DatasetError(
            f"the train text has {len(windows)} windows of {recipe.seq_len} tokens, fewer than "
            f"one step of --batch-size {recipe.batch_size} x --grad-accum {recipe.grad_accum}"
        )
    return windows


def planned_steps(options: Options, recipe: Recipe, windows: int) -> int:
    """Return how many optimizer steps a run over `windows` takes, unless it stops early.

    Raises `SettingError`.
    """
    steps = steps_per_epoch(windows, recipe) * recipe.epochs
    steps = min(steps, options.max_steps or steps)
    if steps > MOST_STEPS:
        raise SettingError(f"--epochs {recipe.epochs} are {steps} steps, more than {MOST_STEPS}")
    return steps


def _check(options: Options, variant: Variant) -> None:
    limits = [name for name in ("max_overhead", "max_bytes", "fit") if getattr(options, name) is not None]
    flags = [f"--{name.replace('_', '-')}" for name in limits]
    if len(limits) > 1:
        raise SettingError(f"{flags[0]} and {flags[1]} are both given: give at most one limit")
    if limits and not variant.plans:
        raise SettingError(f"{flags[0]} limits a plan, and {variant.name} has none")
    if options.fit is not None:
        _check_fit(options.fit, variant)
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


def _check_fit(fit: str, variant: Variant) -> None:
    if not variant.inverts:
        raise SettingError(f"--fit limits the plan that a step follows, and {variant.name} follows none")
    try:
        parse_bytes(fit)
    except ValueError as fault:
        raise SettingError(f"--fit {fit}: {fault}") from None


def _resolve(recipe: Recipe, options: Options) -> Recipe:
    given = {
        name: value
        for name in ("seq_len", "batch_size", "grad_accum", "epochs")
        if (value := getattr(options, name)) is not None
    }
    return dataclasses.replace(recipe, **given)


def _scratch_config(options: Options, recipe: Recipe, tokenizer: Any | None) -> bert.BertConfig:
    config = dataclasses.replace(
        bert.PRESETS[options.preset],
        hidden_dropout_prob=recipe.dropout,
        attention_probs_dropout_prob=recipe.dropout,
        initializer_range=recipe.initializer_range,
    )
    if tokenizer is None:
        return config
    return dataclasses.replace(config, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id)


def _first_params(
    options: Options, config: bert.BertConfig, init: Path | None
) -> tuple[Any, tuple[str, ...]]:
    key = jax.random.key(options.seed)
    if init is None:
        return jax.jit(bert.init_params, static_argnums=0)(config, key), ()
    _, params, fresh = bert.load_for_finetuning(init, key)
    said = f"{options.init} has no masked-LM head: its {len(fresh)} tensors start from --seed {options.seed}"
    return params, (said,) if fresh else ()


def vocabulary_fits(pieces: int, rows: int) -> bool:
    """Whether a model of `rows` word embeddings belongs to `pieces`: as many, or padded to a round number.

    >>> vocabulary_fits(30522, 30522), vocabulary_fits(30522, 30528), vocabulary_fits(2048, 30522)
    (True, True, False)
    """
    return pieces == rows or rows in {-(-pieces // multiple) * multiple for multiple in PADDED_TO}
