"""A run's resolved flags, beside its results, so that nothing else is ever trained into its folder."""

import dataclasses
import hashlib
import json
import math
from typing import Any

from bwsk_jax.training.checkpoints import has_checkpoint
from bwsk_jax.training.options import Options
from bwsk_jax.training.results import RESULTS_FILE, read_results, write_json
from bwsk_jax.training.setup import Setup

OPTIONS_FILE = "options.json"
TEXT = "text"
IN_RECIPE = ("seq_len", "batch_size", "grad_accum", "epochs")
MAY_DIFFER = {"out", "save_every", "device", "log_dir"}
WORK = (RESULTS_FILE, "model.safetensors")


class OtherRunError(ValueError):
    """An output folder that holds the work of another configuration."""


def resolved_options(setup: Setup) -> dict[str, Any]:
    """Return flag -> value with the recipe filled in, as JSON has it (infinity as a string)."""
    values = dataclasses.asdict(setup.options)
    values |= {name: getattr(setup.recipe, name) for name in IN_RECIPE}
    values |= {"variant": setup.variant.name, "lr": setup.peak_lr}
    return {
        name: str(value) if isinstance(value, float) and math.isinf(value) else value
        for name, value in values.items()
    }


def save_options(setup: Setup) -> None:
    """Write the resolved flags, and a digest of the text as tokenized, to the variant's folder."""
    write_json(resolved_options(setup) | {TEXT: _text_digest(setup)}, setup.folder / OPTIONS_FILE)


def check_same_run(setup: Setup) -> None:
    """Raise `OtherRunError`, which says what differs, if the folder holds the work of another configuration.

    A folder without checkpoint, export or results holds no work.
    """
    folder = setup.folder
    if not has_checkpoint(folder) and not any((folder / name).exists() for name in WORK):
        return
    advice = "give another --out, or remove the folder"
    try:
        saved = json.loads((folder / OPTIONS_FILE).read_text("utf-8"))
    except FileNotFoundError:
        raise OtherRunError(f"{folder} holds a run without {OPTIONS_FILE}: {advice}") from None
    except ValueError as fault:
        raise OtherRunError(f"{folder / OPTIONS_FILE} is damaged ({fault}): {advice}") from None
    defaults = {field.name: field.default for field in dataclasses.fields(Options)}
    differences = [
        f"--{name.replace('_', '-')} was {_shown(before)}, now {_shown(now)}"
        for name, now in resolved_options(setup).items()
        if name not in MAY_DIFFER and (before := saved.get(name, defaults[name])) != now
    ]
    if not differences and saved.get(TEXT) != _text_digest(setup):
        differences = ["the text or vocabulary behind --dataset and --tokenizer has changed"]
    if differences:
        raise OtherRunError(f"{folder} holds another run: {'; '.join(differences)}: {advice}")


def finished_results(setup: Setup) -> dict[str, Any] | None:
    """Return the results of the run in the variant's folder if it is finished. Raises `ResultsError`."""
    file = setup.folder / RESULTS_FILE
    return read_results(file) if file.is_file() else None


def _shown(value: Any) -> str:
    return "not given" if value is None else str(value)


def _text_digest(setup: Setup) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for windows in (setup.train_windows, setup.validation.tokens_wt, setup.test.tokens_wt):
        digest.update(windows)
    return digest.hexdigest()
