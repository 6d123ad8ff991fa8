"""Files from the Hugging Face Hub or its local cache, with an answer within seconds if there is no network.

The Hub's own libraries retry for up to a minute. Therefore `connection` first sends one short request. If
that is not answered, it puts the libraries into offline mode, in which they read their local cache only.
"""

import contextlib
import functools
import logging
import os
import re
import ssl
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROBE_SECONDS = 3.0
# The Hub's client resumes a download up to five times, after a second each.
STALL_SECONDS = 3
PROBE_PATH = "/api/models?limit=1"
HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
)
MODEL_FILES = ("config.json", "model.safetensors", "model.safetensors.index.json", "model-*.safetensors")
CARD_FILE = "README.md"
# What a model of sentence-transformers consists of besides.
SENTENCE_PATTERNS = (
    *("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"),
    *("[0-9]*_*/*.json", "[0-9]*_*/*.safetensors"),
)
SNAPSHOT = re.compile(r"/(?:models|datasets)--(?P<name>[^/]+)/snapshots/[^/]+$")


class HubError(ValueError):
    """A file or repository that neither the Hub nor its local cache gives."""


def is_hub_name(name: str) -> bool:
    """Whether `name` is spelt like a repository of the Hub.

    >>> is_hub_name("google-bert/bert-base-uncased"), is_hub_name("./texts"), is_hub_name("a/b/c")
    (True, False, False)
    """
    return HUB_NAME.fullmatch(name) is not None


def repository_name(name: str) -> str | None:
    """Return the repository of the Hub that `name` stands for, None if it is another folder or path.

    A folder in the Hub's cache stands for its repository.

    >>> repository_name("google-bert/bert-base-uncased"), repository_name("/home/me/bert")
    ('google-bert/bert-base-uncased', None)
    """
    if not os.path.exists(name):
        return name if is_hub_name(name) else None
    snapshot = SNAPSHOT.search(os.path.abspath(name))
    return snapshot and snapshot["name"].replace("--", "/")


def public_name(name: str) -> str:
    """Return `name` as it may be shown to others: a repository's name, or the last part of a path.

    >>> public_name("owner/name:config"), public_name("/home/me/texts:config"), public_name("trained")
    ('owner/name:config', 'texts:config', 'trained')
    """
    configured = ":" in name and not os.path.exists(name)
    place, colon, config = name.rpartition(":") if configured else (name, "", "")
    return f"{repository_name(place) or Path(os.path.abspath(place)).name}{colon}{config}"


@contextlib.contextmanager
def connection() -> Iterator[str | None]:
    """Yield None if the Hub answers, else the reason why not; its libraries then only read their cache.

    Downloads show a progress bar on terminals only. A download that stalls is given up soon, unless the user
    has set HF_HUB_DOWNLOAD_TIMEOUT.
    """
    import huggingface_hub.constants
    import huggingface_hub.utils

    if not sys.stderr.isatty():
        huggingface_hub.utils.disable_progress_bars()
    huggingface_hub.utils.logging.set_verbosity(logging.CRITICAL)  # a final failure is raised anyway
    if "HF_HUB_DOWNLOAD_TIMEOUT" not in os.environ:
        huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT = STALL_SECONDS
    fault = _fault()
    modules: list[Any] = [huggingface_hub.constants]
    if "datasets" in sys.modules:
        modules.append(sys.modules["datasets"].config)
    before = [module.HF_HUB_OFFLINE for module in modules]
    try:
        for module in modules:
            module.HF_HUB_OFFLINE = module.HF_HUB_OFFLINE or fault is not None
        yield fault
    finally:
        for module, value in zip(modules, before, strict=True):
            module.HF_HUB_OFFLINE = value


def fetch(repository: str, files: tuple[str, ...]) -> Path:
    """Return a local folder with those of `files` (glob patterns) that `repository` has.

    Raises `HubError`, which says why there is none.
    """
    from huggingface_hub import snapshot_download

    with connection() as fault:
        try:
            return Path(snapshot_download(repository, allow_patterns=list(files)))
        # Whatever the Hub's client, its HTTP library or the disk raises, the user needs the sentence.
        except Exception as error:
            cached = None if fault is None else cached_folder(repository, files)
            if cached is not None:
                return cached
            raise HubError(explain(error, fault)) from error


def explain(error: Exception, fault: str | None) -> str:
    """Return one line that says why something could not be fetched; `fault` is what `connection` yielded."""
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.errors import RepositoryNotFoundError

    if isinstance(error, RepositoryNotFoundError):
        return "no such folder, and the Hub has no such repository, or none that this user may read"
    if fault is None:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return f"the Hub did not give it: {' '.join(lines[:2]) or type(error).__name__}"
    return f"no such folder, not in the cache {HF_HUB_CACHE}, and {fault}"


def _fault() -> str | None:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE forbids to ask the Hub"
    return _probe(constants.ENDPOINT)


@functools.cache
def _probe(endpoint: str) -> str | None:
    from huggingface_hub.utils import get_session

    faults: list[str | None] = []

    def ask() -> None:
        try:
            status = get_session().head(endpoint + PROBE_PATH, timeout=PROBE_SECONDS).status_code
            faults.append(f"answers with status {status}" if status >= 500 else None)
        except Exception as error:
            reached = isinstance(error.__cause__ or error, ssl.SSLError)
            faults.append(None if reached else f"cannot be reached ({error or type(error).__name__})")

    # Looking up a name has no time limit of its own, so that the thread may outlive the question.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS + 0.5)
    fault = faults[0] if faults else f"does not answer within {PROBE_SECONDS:g} s"
    return fault and f"{endpoint} {fault}"


def cached_folder(repository: str, files: tuple[str, ...]) -> Path | None:
    """Return the folder in the local cache that holds any of `files`, though perhaps not all of them."""
    found = (cached_file(repository, file) for file in files)
    return next((file.parent for file in found if file is not None), None)


def cached_file(repository: str, file: str, kind: str = "model") -> Path | None:
    """Return a file of a repository of that kind if the local cache has it."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    with contextlib.suppress(HFValidationError):
        found = try_to_load_from_cache(repository, file, repo_type=kind)
        return Path(found) if isinstance(found, str) else None
    return None
