"""Weights & Biases: the same values that TensorBoard gets, if `wandb` is installed."""

import hashlib
from pathlib import Path
from typing import Any


class WandbLog:
    """A run in `project`, which goes on when a run in the same `folder` goes on.

    `settings` is what the run is known by; nothing else is sent but what is logged.
    """

    def __init__(self, project: str, folder: Path, settings: dict[str, Any]):
        import wandb  # pyright: ignore[reportMissingImports]

        identity = hashlib.blake2b(str(folder.resolve()).encode(), digest_size=8).hexdigest()
        self._run = wandb.init(
            project=project,
            name=folder.name,
            id=identity,
            resume="allow",
            config=settings,
            dir=str(folder.parent),
        )

    def __enter__(self) -> "WandbLog":
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception) -> None:
        self._run.finish(exit_code=0 if kind is None else 1)

    def log(self, step: int, values: dict[str, float]) -> None:
        """Log a value for each name."""
        self._run.log(values, step=step)

    def flush(self) -> None:
        """Do nothing, because wandb sends by itself."""
