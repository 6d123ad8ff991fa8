"""The same training step of the same BERT: transformers with PyTorch, and ours.

    python -m experiments.against_pytorch --preset mini --seq-len 256
    python -m experiments.against_pytorch --preset base --seq-len 256 --rounds 3
    python -m experiments.against_pytorch --preset base --precision bfloat16 --batch-size 32      (for a GPU)

Claim: at the memory of PyTorch's gradient checkpointing our step is faster than its step with checkpointing,
and than its step without as the Trainer runs it.
Both sides have the same weights to start from, the same windows, the same dropout and precision (PyTorch by
autocast), clip the gradient and run AdamW. Ours draws its masks within the step. transformers computes the
logits of all positions, which is how its Trainer runs the model; ours those of the masked positions. So
PyTorch is run in both ways. `budget` is torch._functorch.config.activation_memory_budget.
Measured: tokens per second, the steps in turns in one process on the same cores; the time of all cores
together, which means more on a machine that others use too; and the peak of memory. Ours is the compiled peak
(arguments + outputs + temporaries - aliased). PyTorch's on a GPU is torch.cuda.max_memory_allocated; on a CPU
it is parameters and optimizer, and the most that its allocator has given out within a step, as torch.profiler
tells. Both leave out what libraries take by themselves.
Expected: experiments/results/<device>/against_pytorch_<preset>_<precision>.json and the table that the
program prints from it.
Cost: for mini five minutes on 2 cores and 6 GiB; for base some hours, most of which torch.compile takes. A
part of it: `--ways eager "eager, checkpointing" conventional "reversible, least memory"`.
"""

from __future__ import annotations

import os

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch has to have some of a GPU too

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import jax

from bwsk_jax import bert
from bwsk_jax.errors import mistakes_in_one_line
from bwsk_jax.training.progress import TaskProgress
from bwsk_jax.usage import UsageError, parse
from experiments import records
from experiments.against_pytorch import ours, theirs
from experiments.against_pytorch.batch import Batch, config_of
from experiments.turns import CLOCKS, in_turns, ratio

YARDSTICK = "eager"


@dataclass(frozen=True)
class Options:
    """What is compared."""

    preset: Literal["base", "mini", "demo"] = "mini"
    batch_size: int = 4
    seq_len: int = 256
    precision: Literal["float32", "bfloat16"] = "float32"
    dropout: float = 0.1
    rounds: int = 7
    ways: tuple[str, ...] = (*theirs.WAYS, *ours.WAYS)


def measured(options: Options) -> dict[str, Any]:
    """Return for each way its peak and the seconds of its steps, or why there are none."""
    config = config_of(options.preset, options.dropout)
    batch = Batch.draw(config, options.batch_size, options.seq_len)
    params = bert.init_params(config, jax.random.key(0))
    them = theirs.Theirs(config, params, batch, options.precision)
    us = ours.Ours(config, params, batch, options.precision)
    found: dict[str, dict[str, Any]] = {}
    steps: dict[str, Callable[[], object]] = {}
    with TaskProgress("against PyTorch", 5 * len(options.ways) + options.rounds) as progress:
        for way in options.ways:
            if way in ours.WAYS:
                steps[way], peak = us.stepper(way)
                found[way] = {"peak": peak}
            else:
                found[way] = _theirs(them, way, steps)
            progress.advance(5)
        times = in_turns(steps, options.rounds, each_round=lambda: progress.advance(1))
    return {way: figures | times.get(way, {}) for way, figures in found.items()}


def _theirs(them: theirs.Theirs, way: str, steps: dict[str, Callable[[], object]]) -> dict[str, Any]:
    """Add the step of a way of PyTorch and return its peak. What PyTorch cannot compile is left out."""
    try:
        steps[way] = step = them.stepper(way)
    except Exception as failure:  # whatever torch.compile, its C++ compiler or its linker meet
        if not theirs.WAYS[way].compiled:
            raise
        return {"left_out": f"{type(failure).__name__}: {str(failure).strip().splitlines()[0]}"}
    return {"peak": them.peak(step)}


def table(record: dict[str, Any]) -> str:
    """Return the results in Markdown."""
    options, found = record["options"], record["ways"]
    tokens = options["batch_size"] * options["seq_len"]
    yardstick = found.get(YARDSTICK, {})
    lines = ["| way | peak, MiB | tokens/s | time / eager's | CPU time / eager's |", "|---" * 5 + "|"]
    for way, figures in found.items():
        if "left_out" in figures:
            lines.append(f"| {way} | left out: {figures['left_out']} | | | |")
            continue
        shares = [f"{ratio(figures[c], yardstick[c]):.2f}" if c in yardstick else "" for c in CLOCKS]
        rate = tokens / statistics.median(figures["seconds"])
        lines.append(f"| {way} | {figures['peak'] / 2**20:,.0f} | {rate:,.0f} | {' | '.join(shares)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, write the file and print the table."""
    with mistakes_in_one_line():
        options = parse(Options, None, description=__doc__)
        if unknown := set(options.ways) - {*theirs.WAYS, *ours.WAYS}:
            raise UsageError(
                f"--ways {'; '.join(unknown)}: there are {'; '.join([*theirs.WAYS, *ours.WAYS])}"
            )
        found = measured(options)
        conditions = records.conditions() | {"versions": theirs.version()}
        record = {"options": asdict(options), "conditions": conditions, "ways": found}
        name = f"against_pytorch_{options.preset}_{options.precision}"
        print(records.write(records.device_name(), name, record))
        print(table(record))


if __name__ == "__main__":
    main()
