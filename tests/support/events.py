"""Events files read back as TensorBoard reads them."""

import struct
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event, SessionLog


def read_events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return tag -> (step, value) pairs in the order of writing, without what a later session purged."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for file in sorted(folder.iterdir()):
        for event in _records(file.read_bytes()):
            if event.session_log.status == SessionLog.START:
                curves = {
                    tag: [(step, value) for step, value in curve if step < event.step]
                    for tag, curve in curves.items()
                }
            for value in event.summary.value:
                curves.setdefault(value.tag, []).append((event.step, value.simple_value))
    return curves


def _records(content: bytes):
    at = 0
    while at < len(content):
        (length,) = struct.unpack_from("<Q", content, at)
        yield Event.FromString(content[at + 12 : at + 12 + length])
        at += 12 + length + 4
