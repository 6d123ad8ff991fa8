"""Numbers of bytes as people write them."""

import re

UNITS = {"B": 1}
UNITS |= {f"{prefix}B": 1000**power for power, prefix in enumerate("KMG", start=1)}
UNITS |= {f"{prefix}iB": 1024**power for power, prefix in enumerate("KMG", start=1)}
SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([A-Za-z]*)")


def parse_bytes(text: str) -> int:
    """Return the bytes that `text` names, a number with or without a unit; a fraction of a byte is dropped.

    Raises `ValueError`, also for less than one byte.

    >>> parse_bytes("8GiB"), parse_bytes("1.5 KB"), parse_bytes("77")
    (8589934592, 1500, 77)
    """
    match = SIZE.fullmatch(text)
    if match is None or (match[2] or "B") not in UNITS:
        raise ValueError(f"expected a number of bytes, or one with a unit of {', '.join(UNITS)}")
    size = int(float(match[1]) * UNITS[match[2] or "B"])
    if size == 0:
        raise ValueError("expected at least one byte")
    return size
