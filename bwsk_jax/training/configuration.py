"""A run's resolved flags, beside its results, so that nothing else is ever trained into its folder."""

import dataclasses
import hashlib
import json
import math
from pathlib import Path
from typing import Any

from bwsk_jax.training.checkpoints import has_checkpoint
from bwsk_jax.training.memory_limit import limited
from bwsk_jax.training.options import Options
from bwsk_jax.training.results import RESULTS_FILE, read_results, write_json
from bwsk_jax.training.setup import Setup

OPTIONS_FILE = "options.json"
TEXT = "text"
FITTED = "fitted_max_bytes"
IN_RECIPE = ("seq_len", "batch_size", "grad_accum", "epochs")
MAY_DIFFER = {"out", "save_every", "device", "log_dir"}
ADVICE = "give another --out, or remove the folder"
WORK = (RESULTS_FILE, "model.safetensors")


class OtherRunError(ValueError):
    """An output folder that holds the work of another configuration."""


def resolved_options(setup: Setup) -> dict[str, Any]:
    """Return flag -> value with the recipe filled in, as JSON has it (infinity as a string).

    The `max_bytes` that `--fit` led to is none of the flags.
    """
    values = dataclasses.asdict(setup.options)
    if setup.options.fit is not None:
        values["max_bytes"] = None
    values |= {name: getattr(setup.recipe, name) for name in IN_RECIPE}
    values |= {"variant": setup.variant.name, "lr": setup.peak_lr}
    return {
        name: str(value) if isinstance(value, float) and math.isinf(value) else value
        for name, value in values.items()
    }


def save_options(setup: Setup) -> None:
    """Write the resolved flags, where `--fit` led, and a digest of the text, to the variant's folder."""
    fitted = {} if setup.options.fit is None else {FITTED: setup.options.max_bytes}
    beside = fitted | {TEXT: _text_digest(setup)}
    write_json(resolved_options(setup) | beside, setup.folder / OPTIONS_FILE)


def check_same_run(setup: Setup) -> None:
    """Raise `OtherRunError`, which says what differs, if the folder holds the work of another configuration.

    A folder without checkpoint, export or results holds no work.
    """
    saved = _saved_options(setup.folder)
    if saved is None:
        return
    defaults = {field.name: field.default for field in dataclasses.fields(Options)}
    differences = [
        f"--{name.replace('_', '-')} was {_shown(before)}, now {_shown(now)}"
        for name, now in resolved_options(setup).items()
        if name not in MAY_DIFFER and (before := saved.get(name, defaults[name])) != now
    ]
    if not differences and saved.get(TEXT) != _text_digest(setup):
        differences = ["the text or vocabulary behind --dataset and --tokenizer has changed"]
    if differences:
        raise OtherRunError(f"{setup.folder} holds another run: {'; '.join(differences)}: {ADVICE}")


def with_recorded_limit(setup: Setup) -> Setup:
    """Return `setup` with the `max_bytes` that `--fit` led to when this run, if it is one, was begun.

    Another version of the compiler might choose another plan, and the curves would no longer be those of an
    unbroken run.
    """
    saved = _saved_options(setup.folder)
    if setup.options.fit is None or saved is None:
        return setup
    return limited(setup, saved[FITTED])


def finished_results(setup: Setup) -> dict[str, Any] | None:
    """Return the results of the run in the variant's folder if it is finished. Raises `ResultsError`."""
    file = setup.folder / RESULTS_FILE
    return read_results(file) if file.is_file() else None


def _saved_options(folder: Path) -> dict[str, Any] | None:
    """Return what `save_options` wrote for the work in `folder`, None if there is no work."""
    if not has_checkpoint(folder) and not any((folder / name).exists() for name in WORK):
        return None
    try:
        return json.loads((folder / OPTIONS_FILE).read_text("utf-8"))
    except FileNotFoundError:
        raise OtherRunError(f"{folder} holds a run without {OPTIONS_FILE}: {ADVICE}") from None
    except ValueError as fault:
        raise OtherRunError(f"{folder / OPTIONS_FILE} is damaged ({fault}): {ADVICE}") from None


def _shown(value: Any) -> str:
    return "not given" if value is None else str(value)


def _text_digest(setup: Setup) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for windows in (setup.train_windows, setup.validation.tokens_wt, setup.test.tokens_wt):
        digest.update(windows)
    return digest.hexdigest()
