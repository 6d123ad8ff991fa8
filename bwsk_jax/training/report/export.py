"""The files that make up an exported model, in a variant's folder and, as links, in the folder above.

So the folder above loads as well: as the best of its variants.
"""

import filecmp
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from bwsk_jax.training.data.hub import TOKENIZER_FILES
from bwsk_jax.training.data.pretrained import SENTENCE_FILES, sentence_files
from bwsk_jax.training.report.results import gather_runs
from bwsk_jax.variants import VARIANTS

MODEL_FILES = ("config.json", "model.safetensors", *TOKENIZER_FILES)
# Perplexities compare only where these are the same.
COMPARABLE = {"dataset": None, "text_column": "text", "tokenizer": None, "seq_len": None}
"""With what a setting was before there was a flag for it."""


def exported_files(folder: Path) -> list[str]:
    """Return the names of the files in a variant's folder from which transformers loads the model."""
    return [name for name in MODEL_FILES if (folder / name).is_file()] + sorted(sentence_files(folder))


def best_variant(root: Path, latest: dict[str, Any]) -> str | None:
    """Return the variant that is best in validation, among the exports that compare with `latest`."""
    comparable = lambda run: (
        run["metric_name"],
        *(run["settings"].get(name, before) for name, before in COMPARABLE.items()),
    )
    scores = {
        name: run["final_val_metric"]
        for name, run in gather_runs(root).items()
        if comparable(run) == comparable(latest) and exported_files(root / name)
    }
    return min(scores, key=lambda name: scores[name], default=None)


def link_best(root: Path, latest: dict[str, Any]) -> str | None:
    """Link the files of the best variant in `root`, and return its name; None where nothing can be linked.

    What this program did not put there stays as it is.
    """
    remove_copies(root)
    best = best_variant(root, latest)
    wanted = {name.partition("/")[0] for name in exported_files(root / best)} if best else set()
    try:
        for link in foreseen(root):
            if link.name not in wanted and link.is_symlink() and is_own(link):
                link.unlink()
        for name in sorted(wanted):
            if is_own(root / name):
                _link(root / name, f"{best}/{name}")
    except OSError as error:
        print(
            f"note: {root} itself cannot be loaded, only its subfolders: no links there ({error.strerror})",
            file=sys.stderr,
        )
        return None
    return best


def remove_copies(root: Path) -> None:
    """Remove from `root` what a copy of the whole folder made of links: files that a variant has as well."""
    for place in foreseen(root):
        if is_own(place) and not place.is_symlink():
            shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)


def foreseen(root: Path) -> list[Path]:
    """Return the places in `root` at which a file or folder of a model is, or would be."""
    modules = {path for path in root.glob("[0-9]*_*") if path.is_symlink() or path.is_dir()}
    return [*(root / name for name in (*MODEL_FILES, *SENTENCE_FILES)), *sorted(modules)]


def is_own(place: Path) -> bool:
    """Whether `place` is free, or holds a link of this program or the copy of a variant's file."""
    if place.is_symlink():
        target = Path(os.readlink(place))
        return len(target.parts) == 2 and target.parts[0] in VARIANTS and target.name == place.name
    if not place.exists():
        return True
    return any(_same(place, place.parent / name / place.name) for name in VARIANTS)


def _same(one: Path, other: Path) -> bool:
    if one.is_dir():
        inside = [file.name for file in one.iterdir()]
        return other.is_dir() and all(_same(one / name, other / name) for name in inside)
    return other.is_file() and filecmp.cmp(one, other, shallow=False)


def _link(place: Path, target: str) -> None:
    """Make `place` a link, without a moment in which there is nothing."""
    beside = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    beside.symlink_to(target)
    os.replace(beside, place)
