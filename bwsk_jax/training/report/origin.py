"""What may be said in public of a run: what is known of its model and text, and no path of this machine.

A model card states a base model, a license and languages only where they are known: from the cards of the
base model and of the dataset, as far as these are at hand, and from the flags `--license` and `--language`.
"""

import contextlib
import dataclasses
import os
import re
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bwsk_jax.training.data.corpus import name_and_config
from bwsk_jax.training.data.hub import CARD_FILE, cached_file, public_name, repository_name
from bwsk_jax.training.data.text import EMBEDDED
from bwsk_jax.training.flags import PATHS, PERSONAL, Flags
from bwsk_jax.training.setup import Setup

LICENSE_KEYS = ("license", "license_name", "license_link")


def origin(setup: Setup) -> dict[str, Any]:
    """Return what is known of the base model and of the text: None, or an empty list, where nothing is.

    `base_model` and `dataset` are names on the Hub. The license is that of the model.
    """
    flags = setup.flags
    assert flags.dataset is not None  # it was filled in
    name, config = name_and_config(flags.dataset)
    model_card = {} if flags.init is None else _front_matter(flags.init, "model")
    dataset = None if name == EMBEDDED else repository_name(name)
    text_card = {"language": "en"} if name == EMBEDDED else _front_matter(name, "dataset")
    spoken = (
        flags.language.split(",") if flags.language else [*_languages(model_card), *_languages(text_card)]
    )
    license_ = {"license": flags.license} if flags.license else _license(model_card)
    return {
        "base_model": flags.init and repository_name(flags.init),
        "dataset": dataset,
        "dataset_config": dataset and config,
        "language": list(dict.fromkeys(spoken)),
        **{key: license_.get(key) for key in LICENSE_KEYS},
    }


def command(flags: Flags) -> str:
    """Return the command that repeats the run, with names in place of paths.

    Flags that only say where to write and compute are left out.

    >>> command(Flags(dataset="/home/me/texts", seed=3, out="/home/me/runs"))
    'python -m bwsk_jax.train --dataset texts --seed 3'
    """
    words = ["python", "-m", "bwsk_jax.train"]
    for field in dataclasses.fields(flags):
        value = getattr(flags, field.name)
        limit_by_fit = field.name == "max_bytes" and flags.fit is not None
        if field.name not in PERSONAL and value != field.default and not limit_by_fit:
            shown = public_name(value) if field.name in PATHS else value
            words += [f"--{field.name.replace('_', '-')}", *([] if value is True else [str(shown)])]
    return shlex.join(words)


def without_machine_paths(text: str, roots: Iterable[str] = ()) -> str:
    """Return `text` in which source files are named as seen from the folder of `roots` that they are in.

    Without `roots` these are the folders that Python imports from.

    >>> without_machine_paths("add  /lib/site-packages/flax/nn.py:3", ["/lib", "/lib/site-packages"])
    'add  flax/nn.py:3'
    """
    for root in sorted({os.path.abspath(root) for root in roots or sys.path}, key=len, reverse=True):
        if root != os.sep:
            text = text.replace(root + os.sep, "")
    return re.sub(r"(?<!\S)/(?:[^\s/]+/)+(?=[^\s/]+:\d)", "", text)


def _front_matter(name: str, kind: str) -> dict[str, Any]:
    """Return the metadata of the card of a folder or of a repository in the Hub's cache, {} without one."""
    import yaml
    from huggingface_hub.repocard import metadata_load

    file = Path(name) / CARD_FILE if os.path.exists(name) else cached_file(name, CARD_FILE, kind)
    with contextlib.suppress(OSError, ValueError, yaml.YAMLError):
        return (file and metadata_load(file)) or {}
    return {}


def _languages(card: dict[str, Any]) -> list[str]:
    said = card.get("language", card.get("languages"))
    return [code for code in (said if isinstance(said, list) else [said]) if isinstance(code, str)]


def _license(card: dict[str, Any]) -> dict[str, str]:
    said = card.get("license")
    if isinstance(said, list) and len(said) == 1:
        said = said[0]
    if not isinstance(said, str):
        return {}
    others = {key: card[key] for key in LICENSE_KEYS[1:] if isinstance(card.get(key), str)}
    # What is not an address names a file of the base model's repository.
    if not others.get("license_link", "https://").startswith(("https://", "http://")):
        del others["license_link"]
    return {"license": said} | others
