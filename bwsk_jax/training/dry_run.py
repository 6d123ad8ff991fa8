"""Will it fit? The compiled step in numbers, from what is at hand: no parameters, no network, no output."""

import sys
from typing import Any

import jax

import bwsk_jax
from bwsk_jax import bert
from bwsk_jax.training.corpus import load_corpus, on_the_hub
from bwsk_jax.training.loop import steps_per_epoch
from bwsk_jax.training.memory_limit import fit_memory
from bwsk_jax.training.options import Options
from bwsk_jax.training.setup import cut_train_windows, make_tokenizer, model_config, planned_steps, settle
from bwsk_jax.training.sources import (
    DEFAULT_MODEL,
    TRAINED,
    WAYS_OUT,
    SourceError,
    cached_model_config,
    cached_tokenizer,
)
from bwsk_jax.training.step_setup import StepSetup
from bwsk_jax.training.token_cache import cached_tokens

MASK_ID = 103
"""Of bert-base-uncased, where the tokenizer is not at hand. Memory does not depend on it."""
STEPS = 100
"""Of the schedule, where the text is not at hand. Memory does not depend on them."""


def dry_run(options: Options) -> dict[str, Any]:
    """Compile the step that `options` ask for; return its memory, in MB of 10^6 bytes.

    Saved and residual bytes are those of all layers: what the plan saves and what plain autodiff keeps. What
    is only on the Hub is done without, and a note on standard error says so.

    Raises what `prepare` raises, and `FitError`.
    """
    variant, options, recipe = settle(options)
    init, notes = _init_config(options)
    tokenizer_at = None if options.tokenizer == TRAINED else cached_tokenizer(options.tokenizer)
    corpus = None if on_the_hub(options.dataset) else load_corpus(options.dataset)
    tokenizer = None
    if tokenizer_at is not None or (options.tokenizer == TRAINED and corpus is not None):
        tokenizer = make_tokenizer(options, tokenizer_at, corpus and corpus.train)
    config = model_config(options, recipe, init, tokenizer)
    windows = None
    if corpus is not None and tokenizer is not None:
        windows = len(cut_train_windows(cached_tokens(tokenizer, corpus.train, "train text"), recipe))
    setup = StepSetup(
        options=options,
        variant=variant,
        recipe=recipe,
        config=config,
        mask_id=tokenizer.mask_token_id if tokenizer else MASK_ID,
        pieces=len(tokenizer) if tokenizer else config.vocab_size,
        total_steps=planned_steps(options, recipe, windows) if windows else options.max_steps or STEPS,
    )
    if tokenizer is None:
        notes += (f"{options.tokenizer} is not at hand: a vocabulary of {config.vocab_size} is assumed",)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    setup = fit_memory(setup)
    return step_memory(setup) | {
        "max_bytes": setup.options.max_bytes,
        "steps_per_epoch": windows and steps_per_epoch(windows, recipe),
    }


def step_memory(setup: StepSetup) -> dict[str, Any]:
    """Compile the step and return what it takes, what it cannot do without, and what its layers keep."""
    state = setup.state
    params_bytes = _bytes(state.params)
    layers = setup.config.num_hidden_layers
    plan = setup.plan or bwsk_jax.plan_scan(*setup.encoder_layer, length=layers)
    follows = setup.variant.inverts
    return {
        "compiled_peak_mb": setup.peak_bytes() / 1e6,
        "floor_mb": (2 * params_bytes + _bytes(state.optimizer_state)) / 1e6,
        "saved_mb": layers * (plan.saved_bytes if follows else plan.residual_bytes) / 1e6,
        "residual_mb": layers * plan.residual_bytes / 1e6,
        "overhead": plan.overhead if follows else 0.0,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
    }


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _init_config(options: Options) -> tuple[bert.BertConfig | None, tuple[str, ...]]:
    """Return the configuration of `--init`, if there is one, and what the user should know of it."""
    if options.init is None:
        return None, ()
    folder = cached_model_config(options.init)
    if folder is not None:
        return bert.load_config(folder), ()
    if options.init == DEFAULT_MODEL:
        return bert.PRESETS["base"], (f"{options.init} is not at hand: the sizes are those of --preset base",)
    raise SourceError(
        f"--init {options.init}: no such folder, not in the Hub's cache, and a dry run does not ask the Hub; "
        f"{WAYS_OUT.format(name=options.init)}"
    )
