"""Text through the `datasets` library: from the Hub, its cache, or a folder laid out as on the Hub.

`datasets` is imported where it is used, because it takes a second to import.
"""

import sys
import tempfile
from pathlib import Path

from bwsk_jax.training.data.hub import connection, explain, is_hub_name
from bwsk_jax.training.data.text import Corpus, DatasetError

SPLITS = ("train", "validation", "test")
COLUMN = "text"
WAYS_OUT = (
    "give 'embedded', a folder, or fill the cache where there is a network "
    "(hf download --repo-type dataset {name}) and bring it here as HF_HOME"
)


def has_layout(folder: Path) -> bool:
    """Whether `folder` is laid out as on the Hub: it has parquet files, or a README.md that lists files."""
    readme = folder / "README.md"
    listed = readme.is_file() and b"\nconfigs:" in readme.read_bytes()
    return listed or any(any(folder.glob(pattern)) for pattern in ("*.parquet", "*/*.parquet"))


def layout_corpus(folder: Path, config: str | None) -> Corpus:
    """Return the text of a folder laid out as on the Hub: parquet files, or the ones its README.md lists.

    Raises `DatasetError`, which says what `datasets` finds wrong, or which splits or columns there are.
    """
    spelt = _spell(str(folder), config)
    try:
        return _read_anew(str(folder.resolve()), config, spelt)
    except DatasetError:
        raise
    # Each of the library's many file formats raises exceptions of its own.
    except Exception as error:
        raise DatasetError(f"--dataset {spelt}: {_sentence(error)}") from error


def hub_corpus(name: str, config: str | None) -> Corpus:
    """Return the text of the Hub's dataset `name`, or without a network that of its copy in the local cache.

    Raises `DatasetError`, which says why there is neither, and what to give instead.
    """
    spelt = _spell(name, config)
    if not is_hub_name(name):
        raise DatasetError(f"--dataset {spelt}: no such folder (give a folder, a Hub name or 'embedded')")
    import datasets  # noqa: F401 (so that `connection` finds its switch)

    with connection() as fault:
        try:
            return _read(name, config, spelt)
        except DatasetError:
            raise
        except Exception as error:
            corpus = None if fault is None else _cached_files(name, config)
            if corpus is None:
                instead = f"; {WAYS_OUT.format(name=name)}" if fault else ""
                raise DatasetError(f"--dataset {spelt}: {explain(error, fault)}{instead}") from error
            return corpus


def _read(path: str, config: str | None, spelt: str, cache_dir: str | None = None) -> Corpus:
    import datasets

    datasets.logging.set_verbosity_error()
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    splits = datasets.load_dataset(path, config, cache_dir=cache_dir)
    missing = [split for split in SPLITS if split not in splits]
    if missing:
        raise DatasetError(
            f"--dataset {spelt}: no split {', '.join(missing)}; it has {', '.join(map(str, splits))}"
        )
    columns = splits["train"].column_names
    if COLUMN not in columns:
        raise DatasetError(f"--dataset {spelt}: no column {COLUMN!r}; it has {', '.join(columns)}")
    return Corpus(**{split: "\n".join(row for row in splits[split][COLUMN] if row) for split in SPLITS})


def _read_anew(folder: str, config: str | None, spelt: str) -> Corpus:
    """Read local files without the cache of `datasets`, which tells folders apart by name and README only.

    With it, edited files or another folder of the same name would give the text that was read before.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache_dir:
        return _read(folder, config, spelt, cache_dir)


def _cached_files(name: str, config: str | None) -> Corpus | None:
    """Return the text of a dataset whose files the Hub's cache has, though `datasets` never read them.

    None if the cache does not have them.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            name, repo_type="dataset", local_files_only=True, allow_patterns="README.md"
        )
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    spelt = _spell(name, config)
    try:
        return _read_anew(folder, config, spelt)
    except DatasetError:
        raise
    except Exception as error:
        raise DatasetError(f"--dataset {spelt}: in the cache {folder}: {_sentence(error)}") from error


def _sentence(error: Exception) -> str:
    cause = error.__cause__ or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return lines[0] if lines else type(cause).__name__


def _spell(name: str, config: str | None) -> str:
    return name if config is None else f"{name}:{config}"
