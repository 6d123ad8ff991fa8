"""Whether a folder holds the same run, an unfinished one to go on with, another run, or foreign files.

Each run leaves its flags in options.json, with everything filled in that the preset or another flag decided,
so that nothing else is ever trained into its folder.
"""

import dataclasses
import hashlib
import itertools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from bwsk_jax import bert
from bwsk_jax.errors import UserError
from bwsk_jax.training.flags import OF_PROCESSES, PERSONAL, Flags
from bwsk_jax.training.loop.checkpoints import has_checkpoint
from bwsk_jax.training.memory import limited
from bwsk_jax.training.recipe import IN_RECIPE, REFERENCE, default_recipe, recipe_of
from bwsk_jax.training.report.card import CARD_FILE, is_own_card
from bwsk_jax.training.report.export import foreseen, is_own
from bwsk_jax.training.report.results import (
    GATHERED_FILE,
    RESULTS_FILE,
    finite,
    is_own_gathering,
    read_results,
    write_json,
)
from bwsk_jax.training.setup import Setup

FLAGS_FILE = "options.json"
TEXT = "text"
DIGEST_OF_TOKENS = "tokens "
"""What the digest of the text begins with, but for a run that began when it was a digest of windows."""
FITTED = "fitted_max_bytes"
EXTENDING = ("epochs", "max_steps", "patience")
"""The flags that may be raised for a finished run."""
FOREIGN = (
    "--out {root}: its {name} was not written by this program and would be replaced: give another --out, or "
    "move it away"
)
ADVICE = "give another --out, or remove the folder"
WORK = (RESULTS_FILE, "model.safetensors")


class OtherRunError(UserError):
    """The output folder holds the work of a run with other flags or another text."""


class ForeignFileError(UserError):
    """The output folder holds a file that would be replaced, but that this program did not write."""


def resolved_flags(setup: Setup) -> dict[str, Any]:
    """Return flag -> value with everything filled in, as JSON has it: infinity is a string.

    The `max_bytes` that `--fit` led to is left out, because the user did not give it, and so is how processes
    found each other, which is of one session.
    """
    values = dataclasses.asdict(setup.flags) | dict.fromkeys(OF_PROCESSES)
    if setup.flags.fit is not None:
        values["max_bytes"] = None
    values |= {name: getattr(setup.recipe, name) for name in IN_RECIPE}
    values |= {"variant": setup.variant.name, "lr": setup.peak_lr}
    return {name: finite(value) for name, value in values.items()}


def save_flags(setup: Setup) -> None:
    """Write the resolved flags to the variant's folder, with a digest of the text and what `--fit` led to."""
    fitted = {} if setup.flags.fit is None else {FITTED: setup.flags.max_bytes}
    beside = fitted | {TEXT: DIGEST_OF_TOKENS + setup.text_digest}
    write_json(resolved_flags(setup) | beside, setup.folder / FLAGS_FILE)


def check_own_files(root: Path) -> None:
    """Raise `ForeignFileError` if `root` holds a card, results or a model that this program did not write."""
    for name, wrote in ((CARD_FILE, is_own_card), (GATHERED_FILE, is_own_gathering)):
        file = root / name
        if os.path.lexists(file) and not (file.is_file() and wrote(file)):
            raise ForeignFileError(FOREIGN.format(root=root, name=name))
    for place in foreseen(root):
        if not is_own(place):
            raise ForeignFileError(FOREIGN.format(root=root, name=place.name))


def check_same_run(setup: Setup) -> None:
    """Raise `OtherRunError`, which says what differs, if the variant's folder holds another run's work.

    A folder without checkpoint, export or results holds no work. A finished run may be given more epochs,
    steps or patience: then it goes on.
    """
    saved = _saved_flags(setup.folder)
    if saved is None:
        return
    preset = setup.flags.preset
    recipe = recipe_of(preset, setup.variant.experiment)
    # An older version left out what it had no flag for. It knew the default recipes, and drew positions.
    defaults = {field.name: field.default for field in dataclasses.fields(Flags)}
    defaults |= {name: getattr(recipe, name) for name in IN_RECIPE}
    defaults |= {"recipe": default_recipe(preset)}
    if recipe.positions is not None:
        defaults["positions"] = REFERENCE.positions
    differences = {
        name: (before, now)
        for name, now in resolved_flags(setup).items()
        if name not in PERSONAL and (before := saved.get(name, defaults[name])) != now
    }
    extends = bool(differences) and _extends(setup, differences)
    said = [
        f"--{name.replace('_', '-')} was {_shown(a)}, now {_shown(b)}" for name, (a, b) in differences.items()
    ]
    if (extends or not differences) and not _same_text(setup, saved[TEXT]):
        said, extends = ["the text or vocabulary behind --dataset and --tokenizer has changed"], False
    if said and not extends:
        raise OtherRunError(f"{setup.folder} holds another run: {'; '.join(said)}: {ADVICE}")


def _extends(setup: Setup, differences: dict[str, tuple[Any, Any]]) -> bool:
    """Whether a finished run is in the folder, which these differences of flags give more to do.

    Raises `OtherRunError` if it stopped early, and would do so again at once.
    """
    raised = all(name in EXTENDING and _more(*change) for name, change in differences.items())
    file = setup.folder / RESULTS_FILE
    if not raised or not file.is_file():
        return False
    results = read_results(file)
    if results["total_steps"] >= setup.total_steps:
        return False
    if _has_ended(setup, results):
        raise OtherRunError(
            f"{setup.folder} stopped early at step {results['total_steps']}, after "
            f"{_since_best(results)} validations without a new best: give a higher --patience as well"
        )
    return True


def _more(before: Any, now: Any) -> bool:
    """Whether a flag was raised; without --max-steps there is no limit."""
    return before is not None and (now is None or now > before)


def _since_best(results: dict[str, Any]) -> int:
    values = [value for _, value in results["val_curve"]]
    return len(values) - 1 - values.index(min(values))


def _has_ended(setup: Setup, results: dict[str, Any]) -> bool:
    """Whether the run that left these results has nothing more to do under the present flags."""
    stopped = results["early_stopped"] and _since_best(results) >= setup.recipe.patience
    return stopped or results["total_steps"] >= setup.total_steps


def with_recorded_limit(setup: Setup) -> Setup:
    """Return `setup` with the `max_bytes` that `--fit` led to when the run in its folder began, if one did.

    Searching again might lead to another plan, under another version of the compiler. The curves would then
    no longer be those of an unbroken run. On another mesh the limit is another one.
    """
    saved = _saved_flags(setup.folder)
    if setup.flags.fit is None or saved is None or saved.get("mesh") != setup.flags.mesh:
        return setup
    return limited(setup, saved[FITTED])


def finished_results(setup: Setup) -> dict[str, Any] | None:
    """Return the results in the variant's folder if its run is finished, else None. Raises `ResultsError`.

    Without its model a run is not finished, nor is one that has been given more to do.
    """
    file = setup.folder / RESULTS_FILE
    if not file.is_file() or not bert.holds_model(setup.folder):
        return None
    results = read_results(file)
    return results if _has_ended(setup, results) else None


def _saved_flags(folder: Path) -> dict[str, Any] | None:
    """Return what `save_flags` wrote for the work in `folder`, None if there is no work.

    The flags are the first file of a run. Files without them, hidden ones aside, are somebody else's.
    """
    if not any(not file.name.startswith(".") for file in folder.glob("*")):
        return None
    try:
        saved = json.loads((folder / FLAGS_FILE).read_text("utf-8"))
    except FileNotFoundError:
        raise OtherRunError(f"{folder} holds files, but no {FLAGS_FILE} of a run: {ADVICE}") from None
    except ValueError as fault:
        raise OtherRunError(f"{folder / FLAGS_FILE} is damaged ({fault}): {ADVICE}") from None
    if not isinstance(saved, dict) or TEXT not in saved:
        raise OtherRunError(f"{folder / FLAGS_FILE} was not written by this program: {ADVICE}")
    has_work = has_checkpoint(folder) or any((folder / name).exists() for name in WORK)
    return saved if has_work else None


def _shown(value: Any) -> str:
    return "not given" if value is None else str(value)


def _same_text(setup: Setup, saved: str) -> bool:
    """Whether a run whose text had the digest `saved` had the tokens of `setup`."""
    if saved.startswith(DIGEST_OF_TOKENS):
        return saved == DIGEST_OF_TOKENS + setup.text_digest
    digest = hashlib.blake2b(digest_size=16)
    held_out = (setup.validation.tokens_wt, setup.test.tokens_wt)
    for windows in itertools.chain(setup.train_windows.blocks(), held_out):
        digest.update(np.ascontiguousarray(windows).data)
    return digest.hexdigest() == saved
