"""From flags to everything that a run needs, checked before anything is written.

Both a run and a dry run get what their flags mean from `resolve`. They differ only in how they look for
files: see `bwsk_jax.training.data.sources`.
"""

import dataclasses
import functools
import importlib.util
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from bwsk_jax import bert
from bwsk_jax.meshes import MeshError
from bwsk_jax.targets.fit import parse_bytes
from bwsk_jax.targets.machines import TargetError, find_target
from bwsk_jax.training.data.cache import digest_of
from bwsk_jax.training.data.pretrained import sentence_files
from bwsk_jax.training.data.sources import (
    TRAINED,
    Sources,
    fetch_sources,
    with_default_sources,
)
from bwsk_jax.training.data.text import Corpus, DatasetError
from bwsk_jax.training.data.tokens import Tokens, cached_tokens, trained_tokenizer
from bwsk_jax.training.data.windows import (
    Stream,
    Windows,
    around_documents,
    cut_windows,
    steps_per_epoch,
    stream_of,
)
from bwsk_jax.training.flags import FlagError, Flags
from bwsk_jax.training.recipe import IN_RECIPE, RECIPES, Recipe, default_recipe, recipe_of
from bwsk_jax.training.setup import Setup
from bwsk_jax.training.step.evaluation import held_out_sets, unigram_perplexity
from bwsk_jax.training.step.placement import Placement
from bwsk_jax.training.step.positions import with_sinusoids
from bwsk_jax.variants import Variant, find_variant
from bwsk_jax.writing import check_writable

# Steps are counted in 32 bits.
MOST_STEPS = 2**31 - 1
# Word embeddings are often padded to a multiple of one of these, because it is faster.
PADDED_TO = (8, 16, 32, 64, 128)
# Rows of a vocabulary that are there to be given to words.
UNUSED = "[unused"
# Where the tokenizer is not at hand: that of bert-base-uncased. Memory does not depend on it.
ASSUMED_MASK_ID = 103
ASSUMED_AROUND = (101, 102)
# Where the text is not at hand. Memory does not depend on it.
ASSUMED_STEPS = 100


@dataclass(frozen=True)
class Resolved:
    """What the flags mean, as far as files at hand say it. The flags have their defaults filled in."""

    flags: Flags
    variant: Variant
    recipe: Recipe
    config: bert.BertConfig
    sources: Sources
    tokenizer: Any | None
    around: tuple[int, ...]
    """The ids that stand around documents, if any do; assumed where the tokenizer is not at hand."""
    train_tokens: Tokens | None
    """Those of the training text. Like the windows, None if the text or the tokenizer is not at hand."""
    train_windows: Windows | None

    @property
    def step(self) -> dict[str, Any]:
        """The fields of the `StepSetup`, with assumptions for what is not at hand."""
        windows, tokenizer = self.train_windows, self.tokenizer
        return {
            "flags": self.flags,
            "variant": self.variant,
            "recipe": self.recipe,
            "config": self.config,
            "mask_id": ASSUMED_MASK_ID if tokenizer is None else tokenizer.mask_token_id,
            "pieces": self.config.vocab_size if tokenizer is None else len(tokenizer),
            "unmasked": self.around,
            "total_steps": self.flags.max_steps or ASSUMED_STEPS
            if windows is None
            else _planned_steps(self.flags, self.recipe, len(windows)),
        }

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What the user should know of the files that are not at hand, a line each."""
        lines = []
        if self.flags.init is not None and self.sources.init is None:
            lines.append(f"{self.flags.init} is not at hand: the sizes are those of --preset base")
        if self.tokenizer is None:
            size = self.config.vocab_size
            lines.append(f"{self.flags.tokenizer} is not at hand: a vocabulary of {size} is assumed")
        return (*lines, *(self.sources.corpus.notes if self.sources.corpus is not None else ()))


def resolve(flags: Flags, find_sources: Callable[[Flags], Sources]) -> Resolved:
    """Check `flags` and return what they mean. `find_sources` looks for the files that they name.

    Raises `UserError`, most often as `FlagError`, `SourceError` or `DatasetError`.
    """
    variant = find_variant(flags.variant)
    _check(flags, variant)
    flags = with_default_sources(flags, variant)
    flags = dataclasses.replace(flags, recipe=flags.recipe or default_recipe(flags.preset))
    recipe = _recipe(flags, variant)
    sources = find_sources(flags)
    tokenizer = _tokenizer(flags, sources.tokenizer, sources.corpus)
    config = _model_config(flags, recipe, sources.init, tokenizer)
    _check_mesh(flags, recipe, config)
    around = _around(flags, recipe, tokenizer)
    tokens = windows = None
    if sources.corpus is not None and tokenizer is not None:
        tokens = cached_tokens(tokenizer, sources.corpus.train, "train text")
        windows = _cut_train_windows(stream_of(tokens, around), recipe)
    return Resolved(flags, variant, recipe, config, sources, tokenizer, around, tokens, windows)


def prepare(flags: Flags) -> Setup:
    """Resolve `flags` into a run that can start. Writes nothing.

    Raises `UserError`, and `PlanError` for a limit below the least possible.
    """
    resolved = resolve(flags, fetch_sources)
    flags, recipe, config = resolved.flags, resolved.recipe, resolved.config
    corpus, tokenizer = resolved.sources.corpus, resolved.tokenizer
    train_tokens, train_windows = resolved.train_tokens, resolved.train_windows
    # `fetch_sources` finds everything or raises.
    assert corpus is not None and tokenizer is not None
    assert train_tokens is not None and train_windows is not None
    init = resolved.sources.init
    params, notes = _first_params(resolved)
    pooler = {} if init is None else bert.load_pooler(init)
    kept = {} if init is None else sentence_files(init)
    if pooler:
        notes += (_said_of(pooler, flags.init),)
    if kept:
        notes += (f"these files of {flags.init} are exported unchanged: {', '.join(sorted(kept))}",)

    held_out = {"validation": corpus.validation, "test": corpus.test}
    tokens = {split: cached_tokens(tokenizer, text, f"{split} text") for split, text in held_out.items()}
    sets = {
        split: held_out_sets(stream_of(tokens[split], resolved.around), recipe.seq_len, split)
        for split in held_out
    }
    sampled = {split: kinds.sampled for split, kinds in sets.items()}
    final = {split: getattr(kinds, flags.eval_metric) for split, kinds in sets.items()}
    unigram = functools.partial(unigram_perplexity, train_tokens.counts, vocab_size=config.vocab_size)
    return Setup(
        **resolved.step,
        params=params if flags.mesh is None else jax.device_get(params),  # not whole on a device of several
        tokenizer=tokenizer,
        train_windows=train_windows,
        text_digest=_text_digest(train_tokens, *tokens.values(), documents=bool(resolved.around)),
        validation=sampled["validation"],
        test=sampled["test"],
        final_validation=final["validation"],
        final_test=final["test"],
        unigram_perplexity=unigram(sampled["validation"]),
        final_validation_unigram=unigram(final["validation"]),
        final_test_unigram=unigram(final["test"]),
        pooler=pooler,
        sentence_files=kept,
        notes=corpus.notes + notes,
    )


def _said_of(pooler: Iterable[str], init: str | None) -> str:
    """Return what the user should know of tensors that `bert.load_pooler` has found.

    >>> _said_of(["bert.pooler.dense.bias", "cls.seq_relationship.bias"], "X")[:58]
    'the pooler and next-sentence head of X are exported unchan'
    """
    parts = {"pooler" if ".pooler." in name else "next-sentence head" for name in pooler}
    said, they = ("is", "it") if len(parts) == 1 else ("are", "them")
    named = " and ".join(sorted(parts, reverse=True))
    return f"the {named} of {init} {said} exported unchanged: masked-LM training does not reach {they}"


def _text_digest(*splits: Tokens, documents: bool) -> str:
    ends = [tokens.ends_digest for tokens in splits if documents]
    return digest_of(*(tokens.ids_digest for tokens in splits), *ends)


def _check(flags: Flags, variant: Variant) -> None:
    limits = [name for name in ("max_overhead", "max_bytes", "fit") if getattr(flags, name) is not None]
    given = [f"--{name.replace('_', '-')}" for name in limits]
    if len(limits) > 1:
        raise FlagError(f"{given[0]} and {given[1]} are both given: give at most one limit")
    if limits and not variant.plans:
        raise FlagError(f"{given[0]} limits a plan, and {variant.name} has none")
    if flags.fit is not None:
        _check_fit(flags.fit, variant)
    if flags.target is not None:
        _check_target(flags)
    if variant.experiment == "scratch" and flags.init is not None:
        raise FlagError(
            f"{variant.name} starts from random parameters: drop --init, or use a finetune variant"
        )
    if variant.experiment == "finetune" and flags.positions is not None:
        raise FlagError(f"--positions is of a model from scratch, and {variant.name} has its own")
    if flags.recipe is not None and flags.preset not in RECIPES[flags.recipe]:
        raise FlagError(f"--recipe {flags.recipe} is for --preset {' and '.join(RECIPES[flags.recipe])}")
    if flags.wandb is not None and importlib.util.find_spec("wandb") is None:
        raise FlagError(f"--wandb {flags.wandb} needs a package that is not here: pip install wandb")
    for name in ("dataset", "tokenizer", "init"):
        value = getattr(flags, name)
        if value is not None and os.path.islink(value) and not os.path.exists(value):
            raise FlagError(f"--{name} {value} is a link that leads nowhere: give what it should lead to")
    for flag, folder in (("--out", flags.out), ("--log-dir", flags.log_dir)):
        if folder is not None:
            _check_writable(flag, Path(folder), variant)


def _check_writable(flag: str, root: Path, variant: Variant) -> None:
    try:
        check_writable(root)
        check_writable(root / variant.name)
    except OSError as error:
        raise FlagError(f"{flag} {root} cannot be written: {error.strerror}: give another folder") from None


def _check_fit(fit: str, variant: Variant) -> None:
    if not variant.inverts:
        raise FlagError(f"--fit limits the plan that a step follows, and {variant.name} follows none")
    try:
        parse_bytes(fit)
    except ValueError as fault:
        raise FlagError(f"--fit {fit}: {fault}") from None


def _check_target(flags: Flags) -> None:
    if not flags.dry_run:
        raise FlagError(f"--target {flags.target} is another machine than this one: add --dry-run")
    try:
        find_target(flags.target).mesh((1,))
    except TargetError as fault:
        raise FlagError(f"--target {flags.target}: {fault}") from None


def _check_mesh(flags: Flags, recipe: Recipe, config: bert.BertConfig) -> None:
    try:
        placement = Placement.parse(flags.mesh)
        placement.check_devices(find_target(flags.target))
        placement.check_sizes(recipe.batch_size, config)
    except MeshError as fault:
        raise FlagError(f"--mesh {flags.mesh} {fault}") from None


def _recipe(flags: Flags, variant: Variant) -> Recipe:
    """Return the preset's recipe with the values that `flags` give in place of its own."""
    given = {name: value for name in IN_RECIPE if (value := getattr(flags, name)) is not None}
    return dataclasses.replace(recipe_of(flags.preset, variant.experiment, flags.recipe), **given)


def _tokenizer(flags: Flags, path: Path | None, corpus: Corpus | None) -> Any | None:
    """Load the tokenizer at `path`, or train the one that is to be trained; None if that cannot be done."""
    if path is not None:
        tokenizer = bert.load_tokenizer(path)
    elif flags.tokenizer == TRAINED and corpus is not None:
        preset = bert.PRESETS[flags.preset]
        tokenizer = trained_tokenizer(corpus.train, preset.vocab_size)
        tokenizer.model_max_length = preset.max_position_embeddings
    else:
        return None
    if tokenizer.mask_token_id is None:
        raise FlagError(f"--tokenizer {flags.tokenizer}: it has no mask token")
    return tokenizer


def _model_config(flags: Flags, recipe: Recipe, init: Path | None, tokenizer: Any | None) -> bert.BertConfig:
    """Return the configuration of the model: that of `--init` if it is given, else the preset's.

    From scratch, the vocabulary is the tokenizer's. Without a tokenizer, no vocabulary is checked.
    """
    if init is not None:
        config = bert.load_config(init)
    elif flags.init is not None:  # the default model, not at hand
        config = bert.PRESETS["base"]
    else:
        config = _scratch_config(flags, recipe, tokenizer)
    if (rate := recipe.dropout) is not None:
        config = dataclasses.replace(config, hidden_dropout_prob=rate, attention_probs_dropout_prob=rate)
    if tokenizer is not None and not vocabulary_fits(len(tokenizer), config.vocab_size):
        raise FlagError(
            f"the tokenizer in {flags.tokenizer} has {len(tokenizer)} pieces, but the model in "
            f"{flags.init} has {config.vocab_size}: they do not belong together"
        )
    if recipe.seq_len > (longest := config.longest_input):
        raise FlagError(f"--seq-len {recipe.seq_len} is beyond the model's {longest} positions")
    if init is not None and tokenizer is not None and flags.tokenizer != flags.init:
        _check_same_words(flags, init, tokenizer)
    return config


def _check_same_words(flags: Flags, init: Path, tokenizer: Any) -> None:
    """Raise `FlagError` if the folder of the model has a tokenizer to which the ids are other words."""
    try:
        own = bert.load_tokenizer(init).get_vocab()
    except bert.TokenizerError:
        return
    words = {row: word for word, row in tokenizer.get_vocab().items()}
    others = [
        f"{row} is {word!r} there, {words[row]!r} here"
        for word, row in sorted(own.items(), key=lambda entry: entry[1])
        if words.get(row, word) != word and not word.startswith(UNUSED)
    ]
    if others:
        raise FlagError(
            f"--tokenizer {flags.tokenizer} has other words than the model in {flags.init}, {len(others)} in "
            f"all ({others[0]}): leave --tokenizer out"
        )


def _around(flags: Flags, recipe: Recipe, tokenizer: Any | None) -> tuple[int, ...]:
    if tokenizer is None:
        return ASSUMED_AROUND if flags.windows == "documents" else ()
    return around_documents(flags.windows, tokenizer, recipe.seq_len, str(flags.tokenizer))


def _cut_train_windows(stream: Stream, recipe: Recipe) -> Windows:
    """Return windows, enough for at least one step. Raises `DatasetError` if there are fewer."""
    windows = cut_windows(stream, recipe.seq_len, recipe.seq_len, split="train")
    if steps_per_epoch(len(windows), recipe) == 0:
        raise DatasetError(
            f"the train text has {len(windows)} windows of {recipe.seq_len} tokens, fewer than "
            f"one step of --batch-size {recipe.batch_size} x --grad-accum {recipe.grad_accum}"
        )
    return windows


def _planned_steps(flags: Flags, recipe: Recipe, windows: int) -> int:
    """Return how many optimizer steps a run over `windows` takes, unless it stops early."""
    steps = steps_per_epoch(windows, recipe) * recipe.epochs
    steps = min(steps, flags.max_steps or steps)
    if steps > MOST_STEPS:
        raise FlagError(f"--epochs {recipe.epochs} are {steps} steps, more than {MOST_STEPS}")
    return steps


def _scratch_config(flags: Flags, recipe: Recipe, tokenizer: Any | None) -> bert.BertConfig:
    config = dataclasses.replace(bert.PRESETS[flags.preset], initializer_range=recipe.initializer_range)
    if tokenizer is None:
        return config
    return dataclasses.replace(config, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id)


def vocabulary_fits(pieces: int, rows: int) -> bool:
    """Whether a model with `rows` word embeddings fits `pieces`: it has as many, or a few more as padding.

    >>> vocabulary_fits(30522, 30522), vocabulary_fits(30522, 30528), vocabulary_fits(2048, 30522)
    (True, True, False)
    """
    return pieces == rows or rows in {-(-pieces // multiple) * multiple for multiple in PADDED_TO}


def _first_params(resolved: Resolved) -> tuple[Any, tuple[str, ...]]:
    """The parameters before the first step, and what the user should know of them."""
    flags, recipe, config, init = resolved.flags, resolved.recipe, resolved.config, resolved.sources.init
    key = jax.random.key(flags.seed)
    if init is not None:
        _, params, fresh = bert.load_for_finetuning(init, key)
        said = f"{flags.init} has no masked-LM head: its {len(fresh)} tensors start from --seed {flags.seed}"
        return params, (said,) if fresh else ()
    params = jax.jit(bert.init_params, static_argnums=0)(config, key)
    if recipe.positions == "sinusoids":
        params = with_sinusoids(params, recipe.initializer_range)
    return params, ()
