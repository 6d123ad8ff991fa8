"""Text through the `datasets` library: from the Hub, its cache, or a folder of files that it reads.

Rows of a folder are streamed from its files. Those of the Hub come from the Arrow files that the library
makes of them, in its own cache. `datasets` is imported where it is used, because it takes a second to import.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

from bwsk_jax.training.data.held_out import SPLITS
from bwsk_jax.training.data.hub import connection, explain, is_hub_name
from bwsk_jax.training.data.text import DatasetError, Rows, Text, text_of_files, text_of_lines

FORMATS = (".txt", ".jsonl", ".csv", ".parquet")
"""What a folder may hold files of, one kind of them."""
ROWS_AT_A_TIME = 1000
WAYS_OUT = (
    "give 'embedded', a folder, or fill the cache where there is a network "
    "(hf download --repo-type dataset {name}) and bring it here as HF_HOME"
)


def has_layout(folder: Path) -> bool:
    """Whether `datasets` would read `folder`: it has files of a format, or a README.md that lists some."""
    return _lists_files(folder) or bool(_formats(folder))


def layout_texts(folder: Path, config: str | None, column: str) -> dict[str, Text]:
    """Return the splits of a folder of files with a column of text, as far as they are there.

    Which file belongs to which split follows from names, or from what the folder's README.md lists.
    Raises `DatasetError`, which says what `datasets` finds wrong, or which formats or columns there are.
    """
    spelt = _spell(str(folder), config)
    formats = _formats(folder)
    if config is None and not _lists_files(folder) and len(formats) > 1:
        raise DatasetError(
            f"--dataset {spelt} holds files of several formats ({', '.join(formats)}): keep those of one, or "
            "list the files in its README.md as on the Hub"
        )
    try:
        return _layout(folder, config, column, spelt)
    except DatasetError:
        raise
    # Each of the library's many file formats raises exceptions of its own.
    except Exception as error:
        raise DatasetError(f"--dataset {spelt}: {_sentence(error)}") from error


def hub_texts(name: str, config: str | None, column: str) -> dict[str, Text]:
    """Return the splits of the Hub's dataset `name`, or without a network those of its copy in the cache.

    Raises `DatasetError`, which says why there is neither, and what to give instead.
    """
    spelt = _spell(name, config)
    if not is_hub_name(name):
        raise DatasetError(f"--dataset {spelt}: no such folder (give a folder, a Hub name or 'embedded')")
    datasets = _library()
    with connection() as fault:
        try:
            splits = datasets.load_dataset(name, config)
        except Exception as error:
            texts = None if fault is None else _cached_files(name, config, column)
            if texts is None:
                instead = f"; {WAYS_OUT.format(name=name)}" if fault else ""
                raise DatasetError(f"--dataset {spelt}: {explain(error, fault)}{instead}") from error
            return texts
    files = {split: [Path(file["filename"]) for file in rows.cache_files] for split, rows in splits.items()}
    return {
        split: text_of_files(
            f"--dataset {spelt}: its {split} split",
            files[split],
            f"arrow {column}",
            lambda split=split: _arrow_rows(files[split], column, spelt),
        )
        for split in _known(files, spelt)
    }


def _library() -> Any:
    import datasets

    datasets.logging.set_verbosity_error()
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    return datasets


def _lists_files(folder: Path) -> bool:
    readme = folder / "README.md"
    return readme.is_file() and b"\nconfigs:" in readme.read_bytes()


def _formats(folder: Path) -> list[str]:
    """Return the formats that files in `folder` have, and, but for plain text, in the folders below it."""
    found = {file.suffix for file in folder.glob("*")}
    found |= {file.suffix for file in folder.glob("*/*")} - {".txt"}
    return [suffix for suffix in FORMATS if suffix in found]


def _layout(folder: Path, config: str | None, column: str, spelt: str) -> dict[str, Text]:
    datasets = _library()
    # The cache of `datasets` tells folders apart by name and README only: with it, edited files or another
    # folder of the same name would give what was read before.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache_dir:
        builder = datasets.load_dataset_builder(str(folder.resolve()), config, cache_dir=cache_dir)
    listed: dict[Any, list[Any]] = dict(builder.config.data_files or {})  # pyright: ignore
    files = {str(split): [Path(file) for file in names] for split, names in listed.items()}
    readme = [folder / "README.md"] if _lists_files(folder) else []
    plain = builder.name == "text" and getattr(builder.config, "sample_by", None) == "line"
    texts = {}
    for split in _known(files, spelt):
        name = f"--dataset {spelt}: its {split} split"
        if plain:
            texts[split] = text_of_lines(name, files[split])
        else:
            texts[split] = text_of_files(
                name,
                [*files[split], *readme],
                f"{builder.name} {config} {column}",
                lambda split=split: _streamed_rows(builder, split, column, spelt),
                size=_column_bytes(files[split], column),
            )
    return texts


def _known(files: dict[str, list[Path]], spelt: str) -> list[str]:
    """Return which of the splits there are. Raises `DatasetError` without one to train on."""
    if "train" not in files:
        raise DatasetError(f"--dataset {spelt}: no split train; it has {', '.join(files)}")
    return [split for split in SPLITS if split in files]


def _streamed_rows(builder: Any, split: str, column: str, spelt: str) -> Rows:
    try:
        stream = builder.as_streaming_dataset(split=split).with_format("arrow")
        for table in stream.iter(batch_size=ROWS_AT_A_TIME):
            yield from _column(table, column, spelt)
    except DatasetError:
        raise
    except Exception as error:
        raise DatasetError(f"--dataset {spelt}: {_sentence(error)}") from error


def _arrow_rows(files: list[Path], column: str, spelt: str) -> Rows:
    """Yield the rows of Arrow files. They are not mapped, for all that was read would stay in memory."""
    import pyarrow

    try:
        for file in files:
            with pyarrow.OSFile(str(file)) as source, pyarrow.ipc.open_stream(source) as batches:
                for batch in batches:
                    yield from _column(batch, column, spelt)
    except (OSError, pyarrow.ArrowException) as error:
        raise DatasetError(f"--dataset {spelt}: {_sentence(error)}") from error


def _column(table: Any, column: str, spelt: str) -> list[str]:
    """Return the texts in a column of an Arrow table. Raises `DatasetError`, which names all columns."""
    from pyarrow import types

    textual = [
        field.name
        for field in table.schema
        if types.is_string(field.type) or types.is_large_string(field.type) or types.is_null(field.type)
    ]
    if column not in textual:
        names = table.schema.names
        fault = f"its column {column!r} holds no text" if column in names else f"no column {column!r}"
        only = (
            f"; only {textual[0]!r} holds text: give --text-column {textual[0]}" if len(textual) == 1 else ""
        )
        raise DatasetError(f"--dataset {spelt}: {fault}; it has {', '.join(names)}{only}")
    return [row or "" for row in table[column].to_pylist()]


def _column_bytes(files: list[Path], column: str) -> int | None:
    """Return what a column of parquet files takes once it is no longer compressed, None for other files."""
    from pyarrow import ArrowException, parquet

    if any(file.suffix != ".parquet" for file in files):
        return None
    try:
        found = [parquet.read_metadata(file) for file in files]
    except (OSError, ArrowException):  # whoever reads the rows says what is wrong
        return None
    groups = [metadata.row_group(group) for metadata in found for group in range(metadata.num_row_groups)]
    columns = [group.column(place) for group in groups for place in range(group.num_columns)]
    return sum(part.total_uncompressed_size for part in columns if part.path_in_schema == column)


def _cached_files(name: str, config: str | None, column: str) -> dict[str, Text] | None:
    """Return the splits of a dataset whose files the Hub's cache has, though `datasets` never read them.

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
        return _layout(Path(folder), config, column, spelt)
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
