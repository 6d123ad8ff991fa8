"""Several processes that train one model, each with devices of its own, by JAX's distributed runtime.

All of them run the same program, and have to come to the same collectives in the same order. So whatever
depends on a clock, a signal or a file is decided once: by all (`Agreement`) or by the first (`from_first`).
The first also writes what comes out.

A process alone is the first of one. For it everything here is immediate, and nothing is sent.
"""

import contextlib
import json
import os
import re
import sys
import traceback
from collections.abc import Iterator
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bwsk_jax.errors import UserError, in_one_line

ENVIRONMENT = "auto"
"""In place of a coordinator's address: what SLURM, Open MPI or a TPU says of the processes."""
HEARTBEAT_SECONDS = 20
"""After which a process that nobody hears of counts as ended."""
SHUTDOWN_SECONDS = 20
"""For which those that ended wait for the others."""
CONTINUES = "what was saved is whole, and the same command, given to all processes, continues from there"


class ProcessError(UserError):
    """The processes do not find each other."""


def join(coordinator: str, processes: int | None, number: int | None) -> None:
    """Become process `number` of `processes`, and wait for the others.

    `coordinator` is HOST:PORT of process 0, or "auto", to take all three from the environment. It has to be
    the first that JAX is used for.

    Raises `ProcessError`.
    """
    if number is not None:
        print(f"process {number}: looking for the others at {coordinator}", file=sys.stderr, flush=True)
    jax.config.update("jax_enable_preemption_service", False)  # signals are answered in Python
    try:
        jax.distributed.initialize(
            None if coordinator == ENVIRONMENT else coordinator,
            processes,
            number,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )
    except (ValueError, RuntimeError) as fault:
        raise ProcessError(f"--coordinator {coordinator}: {str(fault).splitlines()[0]}") from None


def is_first() -> bool:
    """Whether this is the process that writes and reports."""
    return jax.process_index() == 0


def silence_others() -> None:
    """Leave standard output to the first process; mistakes and what ends a process are told by each."""
    if not is_first():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (until the process ends)


def wait_for_all(what: str) -> None:
    """Return when all processes have come to `what`, which names the place."""
    multihost_utils.sync_global_devices(what)


def from_first(value: Any) -> Any:
    """Return what the first process gives, which JSON can hold. All have to ask, and get the same.

    >>> from_first({"step": 3})
    {'step': 3}
    """
    if jax.process_count() == 1:
        return value
    told = np.frombuffer(json.dumps(value).encode(), np.uint8)
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(told))))
    told = multihost_utils.broadcast_one_to_all(told if is_first() else np.zeros(length, np.uint8))
    return json.loads(bytes(told))


def gathered(tree: Any) -> Any:
    """Return a tree of arrays that this process can read: what others have parts of is put together."""

    def whole(leaf: Any) -> Any:
        is_shared = isinstance(leaf, jax.Array) and not leaf.is_fully_addressable
        return multihost_utils.process_allgather(leaf, tiled=True) if is_shared else leaf

    return jax.tree.map(whole, tree)


class Agreement:
    """What processes wish, decided alike by all of them, although they do not wish at the same moment.

    Numbers go to all devices while these compute, so that nobody waits for a message: with several processes
    an answer is that to the question before.

    >>> Agreement()(0, True)
    (0, 1)
    """

    def __init__(self) -> None:
        mesh = Mesh(np.array(jax.devices()), ("devices",))
        self._split = NamedSharding(mesh, PartitionSpec("devices"))
        self._largest = jax.jit(
            lambda wishes: wishes.max(0), out_shardings=NamedSharding(mesh, PartitionSpec())
        )
        self._answer: Any = np.zeros(2, np.int32)

    def __call__(self, signal: int, due: bool) -> tuple[int, int]:
        """Return the largest signal of all processes, 0 if there is none, and whether it is due to any."""
        if jax.process_count() == 1:
            return signal, int(due)
        wishes = np.tile(np.array([signal, due], np.int32), (jax.local_device_count(), 1))
        answer = np.asarray(self._answer)
        self._answer = self._largest(jax.make_array_from_process_local_data(self._split, wishes))
        return int(answer[0]), int(answer[1])


def is_of_runtime(error: BaseException) -> bool:
    """Return whether `error` is JAX's runtime's: a device has failed, or the connection to another process.

    A compiled function that fails while it is being called, not later, raises a bare `ValueError` from its
    second call on. It is told by the name of a status in front.

    >>> is_of_runtime(ValueError("UNKNOWN: Gloo all-reduce failed: Connection reset by peer"))
    True
    """
    if isinstance(error, jax.errors.JaxRuntimeError):
        return True
    return type(error) is ValueError and re.match("[A-Z]+(_[A-Z]+)*: ", str(error)) is not None


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """Take care, for one of several processes, that the others learn at once that it has ended.

    A process that leaves with an error does not wait for the others, which may be waiting for it. They see
    that a connection is broken or, where nothing is being sent, miss its heartbeat. Either ends them too, and
    they say so.

    A process alone is left as it is, and so is one that ends as all have agreed.
    """
    try:
        yield
    except BaseException as ending:
        if not jax.distributed.is_initialized() or getattr(ending, "agreed", False):
            raise
        _leave(ending)


def _leave(ending: BaseException) -> NoReturn:
    status = getattr(ending, "code", getattr(ending, "exit_status", 1))
    if isinstance(ending, UserError):
        print(in_one_line(ending), file=sys.stderr)
        status = 2
    elif isinstance(ending, KeyboardInterrupt):
        print(ending, file=sys.stderr)
    elif is_of_runtime(ending):
        print(
            f"error: process {jax.process_index()} of {jax.process_count()} cannot go on, most likely "
            f"because another one has ended ({str(ending).splitlines()[0][:200]}): {CONTINUES}",
            file=sys.stderr,
        )
    elif not isinstance(ending, SystemExit):
        traceback.print_exception(ending)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else 1)
