"""Validation and test splits for a dataset that lacks them: rows that are taken off its training split.

Which rows these are depends on nothing but their number and the size of the text. So all variants, seeds and
recipes train on the same rows and are measured on the same rows.
"""

import numpy as np

from bwsk_jax.training.data.text import Corpus, Rows, Text

SPLIT_SEED = 0
ROWS_PER_BLOCK = 20
HELD_OUT_BYTES = 2 << 20
"""About as much is held out of a text so large that a twentieth of it would take long to measure."""
SPLITS = ("train", "validation", "test")


def corpus_of(dataset: str, splits: dict[str, Text]) -> Corpus:
    """Return a corpus of `splits`, of which all but "train" may be missing, and are then taken off it.

    Of each block of rows one goes to validation and one to test, drawn from a fixed seed. A block has 20
    rows, or more in a large text, so that about 2 MiB are held out of it.
    """
    missing = tuple(split for split in SPLITS if split not in splits)
    train = splits["train"]
    if not missing:
        return Corpus(train, splits["validation"], splits["test"])
    block = max(ROWS_PER_BLOCK, train.size // HELD_OUT_BYTES)
    parts = {split: _part(train, split, missing, block, dataset) for split in ("train", *missing)}
    what = f"{' and '.join(missing)} split{'s' * (len(missing) > 1)}"
    note = (
        f"--dataset {dataset} has no {what}: one row in {block} of its training split is held out for "
        f"{'each' if len(missing) > 1 else 'it'}, the same rows for every variant and seed"
    )
    found = splits | parts
    return Corpus(found["train"], found["validation"], found["test"], notes=(note,))


def _part(train: Text, split: str, missing: tuple[str, ...], block: int, dataset: str) -> Text:
    """Return the rows of `train` that go to `split`, once the `missing` ones are taken off."""

    def read() -> Rows:
        generator = np.random.default_rng(SPLIT_SEED)
        taken: dict[int, str] = {}
        for index, row in enumerate(train.rows()):
            place = index % block
            if place == 0:
                taken = _drawn(generator, block, missing)
            if taken.get(place, "train") == split:
                yield row

    name = (
        f"--dataset {dataset}: its training split has too few rows to spare one in {block}: the {split} split"
    )
    digest = f"{train.digest} {split} without {missing} {block} {SPLIT_SEED}"
    share = 1 / block if split in missing else 1 - len(missing) / block
    return Text(name, digest, round(share * train.size), read)


def _drawn(generator: np.random.Generator, block: int, missing: tuple[str, ...]) -> dict[int, str]:
    """Return place in a block -> the split that its row is taken off for.

    Both places are always drawn, so that a test split that is there does not move the validation split.
    """
    first, second = int(generator.integers(block)), int(generator.integers(block - 1))
    drawn = {first: "validation", second + (second >= first): "test"}
    return {place: split for place, split in drawn.items() if split in missing}
