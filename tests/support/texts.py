"""Text small enough that a run takes seconds."""

from pathlib import Path

import numpy as np

WORDS = ("the", "layer", "inverts", "what", "it", "can", "and", "saves", "memory", "stays", "small")


def write_text(folder: Path) -> Path:
    """Write the three splits to `folder`, the same each time, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    for split, lines in (("train", 200), ("valid", 20), ("test", 20)):
        text = "\n".join(" ".join(generator.choice(WORDS, 12)) for _ in range(lines))
        (folder / f"{split}.txt").write_text(text, "utf-8")
    return folder
