"""How the memory of a BERT's training step grows with layers, length and batch, and which batch fits.

    python -m experiments.scaling --target v5e
    python -m experiments.scaling                  (the CPU or GPU here)
    python -m experiments.scaling --rounds 5 --preset mini --layers 4 8     (with times)

Claim: at least memory a layer takes next to nothing more than its input, so that at 512 tokens a batch at
least eight times as large fits in 16 GB as with plain autodiff.
Measured: the compiled peak of the whole training step (arguments + outputs + temporaries - aliased), by the
compiler of the target, and for a TPU the cycles that it estimates. The largest batch is found by compiling:
it fits, and one that is larger by one window or at most 2%, which was compiled too, does not. A compiler for
TPUs refuses what is more than its device has, so that more memory than that is left out there.
Expected: experiments/results/<device>/scaling.json, docs/figures/scaling_<device>_light.svg and _dark.svg,
and the tables that the program prints from the file.
Cost: about 30 minutes for v5e on 2 idle cores and 4 GiB; it skips what the file holds already. With
`--preset mini --layers 4 --lengths 128 --batches 4 --memory 2` it takes a minute.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from bwsk_jax import bert
from bwsk_jax.errors import mistakes_in_one_line
from bwsk_jax.targets import DoesNotFitError, compile_for, find_target
from bwsk_jax.training.progress import TaskProgress
from bwsk_jax.training.step.train_step import initial_state
from bwsk_jax.usage import UsageError, parse
from experiments import records
from experiments.drawing import draw
from experiments.steps import OPTIMIZER, SCANS, abstract_step, make_step
from experiments.turns import Times, in_turns, ratio

RESOLUTION = 0.02
"""The search for the largest batch ends when one that is larger by this share at most does not fit."""
FIRST_BATCHES = (4, 16)
"""Where that search starts."""
PLAIN, LEAST = "conventional", "reversible, least memory"
SWEEPS = {"layers": "layers", "lengths": "tokens", "batches": "batch"}
"""A flag with several values, and what is along the axis."""


@dataclass(frozen=True)
class Options:
    """What is compiled."""

    target: str | None = None
    """v5e, h100 and so on; by default the machine here."""
    preset: Literal["base", "mini", "demo"] = "base"
    layers: tuple[int, ...] = (6, 12, 24, 48, 96)
    lengths: tuple[int, ...] = (128, 512, 2048)
    batches: tuple[int, ...] = (4, 16, 32)
    batch_size: int = 4
    """While layers and length vary."""
    seq_len: int = 512
    """While layers and batch vary."""
    memory: tuple[float, ...] = (16, 80, 141)
    """GB in which the largest batch is to be found."""
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    rounds: int = 0
    """Time each sweep so many times in turns; only on the machine here."""
    ways: tuple[str, ...] = tuple(SCANS)


@dataclass(frozen=True)
class Size:
    """The sizes of one step."""

    preset: str
    precision: str
    layers: int
    seq_len: int
    batch: int

    def __str__(self) -> str:
        layers = f"{self.preset} with {self.layers} layers"
        return f"{layers}, {self.precision}, {self.seq_len} tokens, batch {self.batch}"

    @property
    def config(self) -> bert.BertConfig:
        """The preset with so many layers, and with as many positions as are needed."""
        config = bert.PRESETS[self.preset]
        positions = max(self.seq_len, config.max_position_embeddings)
        return dataclasses.replace(config, num_hidden_layers=self.layers, max_position_embeddings=positions)


@dataclass
class Points:
    """The figures of all steps that were compiled, by way and size, kept in a file."""

    options: Options
    found: dict[str, Any] = field(default_factory=dict)
    save: Callable[[], object] = lambda: None

    def get(self, way: str, size: Size) -> dict[str, Any] | None:
        """Return peak, temporaries and cycles, which it compiles if need be; None if it does not fit."""
        key = f"{way}: {size}"
        if key not in self.found:
            self.found[key] = compiled(way, size, self.options.target)
            print(f"{key}: {gibibytes(self.found[key])}", file=sys.stderr, flush=True)
            self.save()
        return self.found[key]

    def peak(self, way: str, size: Size) -> int | None:
        """Return the peak, or None if the compiler gives up."""
        point = self.get(way, size)
        return None if point is None else point["peak"]


def compiled(way: str, size: Size, target: str | None) -> dict[str, Any] | None:
    """Return peak, temporaries and cycles of a step, or None if the target has too little for it."""
    dtype = jnp.dtype(size.precision)
    step = abstract_step(size.config, way, dtype, size.batch, size.seq_len)
    try:
        program = compile_for(*step, target=target)
    except DoesNotFitError:
        return None
    return {"peak": program.peak_bytes, "temporaries": program.temporary_bytes, "cycles": program.cycles}


def default_size(options: Options) -> Size:
    """Return the size from which the sweeps start."""
    layers = bert.PRESETS[options.preset].num_hidden_layers
    return Size(options.preset, options.precision, layers, options.seq_len, options.batch_size)


def sweep(options: Options, flag: str) -> list[Size]:
    """Return the sizes that a flag asks for."""
    name = {"layers": "layers", "lengths": "seq_len", "batches": "batch"}[flag]
    return [dataclasses.replace(default_size(options), **{name: n}) for n in getattr(options, flag)]


# --- the largest batch -------------------------------------------------------------------------------------


def largest(peak: Callable[[int], int | None], memory: float) -> tuple[int, int]:
    """Return the largest batch that was found to fit and the smallest that was found not to.

    The two are at most `RESOLUTION` apart, or one. The next batch to try is where the line through the two
    largest that have a peak meets the memory. If nothing fits, the result is (0, 1).
    """
    known: dict[int, float] = {}  # infinite where the compiler gave up

    def measure(batch: int) -> None:
        found = peak(batch)
        known[batch] = math.inf if found is None else found

    for first in FIRST_BATCHES:
        measure(first)
    while True:
        low = max((b for b, size in known.items() if size <= memory), default=0)
        high = min((b for b, size in known.items() if size > memory), default=None)
        if high is not None and high - low <= max(1, RESOLUTION * low):
            return low, high
        measure(_next(known, low, high, memory))


def _next(known: dict[int, float], low: int, high: int | None, memory: float) -> int:
    """Return the batch to try next: where a line meets the memory, and now and then the middle."""
    limit = 8 * low if high is None else high
    near = sorted((b for b in known if known[b] < math.inf), key=lambda b: abs(b - low))[:2]
    step = max(1, int(RESOLUTION * low))
    guess = (low + limit) // 2
    if len(near) == 2 and known[near[0]] != known[near[1]] and (high is None or len(known) % 3):
        (a, at_a), (b, at_b) = ((n, known[n]) for n in near)
        guess = int(a + (memory - at_a) * (b - a) / (at_b - at_a))
        guess = guess if guess > low else low + step
        guess = guess if guess < limit else limit - step
    return min(max(guess, low + 1), max(low + 1, limit - 1))


def find_largest(points: Points, way: str, memory: float) -> dict[str, Any]:
    """Return the largest batch of the preset in so many GB, and the smallest that was found too large."""
    size = default_size(points.options)
    at = lambda batch: points.peak(way, dataclasses.replace(size, batch=batch))
    low, high = largest(at, memory * 1e9)
    return {"batch": low, "too_large": high, "peak": at(low) if low else None}


# --- times -------------------------------------------------------------------------------------------------


def times(options: Options, size: Size) -> dict[str, Times]:
    """Return the times of each way in each round."""
    tokens = np.random.default_rng(0).integers(1000, size.config.vocab_size, (1, size.batch, size.seq_len))
    dtype, key = jnp.dtype(size.precision), jax.random.key(0, impl="rbg")

    def runner(way: str) -> Callable[[], object]:
        state = initial_state(bert.init_params(size.config, jax.random.key(0)), OPTIMIZER, dtype=dtype)
        step, held = make_step(size.config, way, dtype), [state]
        batch = tokens.astype(np.int32)

        def run() -> None:
            held[0], _ = jax.block_until_ready(step(held[0], batch, key))

        run()
        return run

    return in_turns({way: runner(way) for way in options.ways}, options.rounds)


# --- tables and pictures -----------------------------------------------------------------------------------


def gibibytes(point: dict[str, Any] | None) -> str:
    """Return a peak in GiB, with the cycles if they are known."""
    if point is None:
        return "too much"
    cycles = f", {point['cycles'] / 1e6:,.0f} M cycles" if point["cycles"] else ""
    return f"{point['peak'] / 2**30:.2f} GiB{cycles}"


def tables(record: dict[str, Any], options: Options) -> str:
    """Return the results in Markdown."""
    ways, lines = list(options.ways), []
    for flag, axis in SWEEPS.items():
        lines += [f"| {axis} | {' | '.join(ways)} |", "|---" * (1 + len(ways)) + "|"]
        for n, size in zip(getattr(options, flag), sweep(options, flag), strict=True):
            cells = [gibibytes(record["points"].get(f"{way}: {size}")) for way in ways]
            if timed := record["seconds"].get(str(size)):
                taken = [ratio(timed[way]["seconds"], timed[ways[0]]["seconds"]) for way in ways]
                cells = [f"{cell}, {t:.2f} of the first's time" for cell, t in zip(cells, taken, strict=True)]
            lines.append(f"| {n} | {' | '.join(cells)} |")
        lines.append("")
    head = [f"largest batch at {options.seq_len} tokens in", *ways, "least memory / conventional"]
    lines += [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for memory, found in record["largest"].items():
        batches = [f"{found[way]['batch']:,}" if way in found else "" for way in ways]
        plain, least = (found.get(way, {}).get("batch") for way in (PLAIN, LEAST))
        share = f"{least / plain:.1f}" if plain and least else ""
        lines.append(f"| {memory} GB | {' | '.join(batches)} | {share} |")
    return "\n".join(lines)


def picture(record: dict[str, Any], options: Options, device: str) -> list[Any]:
    """Draw the peak against layers, length and batch; return the files."""

    def fill(panels: Sequence[Axes], colours: dict[str, str]) -> None:
        styles = [("theirs", "o-"), ("theirs", "s--"), ("ours", "s--"), ("ours", "o-")]
        for axes, (flag, axis) in zip(panels, SWEEPS.items(), strict=True):
            for way, (colour, style) in zip(SCANS, styles, strict=True):
                found = (record["points"].get(f"{way}: {size}") for size in sweep(options, flag))
                pairs = zip(getattr(options, flag), found, strict=True)
                shown = [(n, point["peak"] / 2**30) for n, point in pairs if point]
                if shown:
                    axes.plot(*zip(*shown, strict=True), style, color=colours[colour], label=way)
            axes.set(xlabel=axis, xscale="log", yscale="log")
        panels[0].set_ylabel("compiled peak, GiB")
        panels[0].legend(fontsize=7)

    return draw(f"scaling_{device}", len(SWEEPS), fill)


def check(options: Options) -> None:
    """Raise `UsageError` for what cannot be asked for."""
    if options.rounds and options.target:
        raise UsageError(
            f"--rounds {options.rounds} times steps here, not on {options.target}: leave one out"
        )
    if unknown := set(options.ways) - set(SCANS):
        raise UsageError(f"--ways {', '.join(unknown)}: there are {'; '.join(SCANS)}")


def measure(options: Options, record: dict[str, Any], save: Callable[[], object]) -> None:
    """Add to the record what it does not hold yet."""
    target = find_target(options.target)
    points = Points(options, record["points"], save)
    sizes = [size for flag in SWEEPS for size in sweep(options, flag)]
    searches = [(memory, way) for memory in options.memory for way in options.ways]
    with TaskProgress("scaling", 6 * len(searches) + len(sizes) * len(options.ways)) as progress:
        for memory, way in searches:
            if target.device.platform == "tpu" and memory * 1e9 > target.memory:
                print(
                    f"{target.name} has {target.memory / 1e9:.1f} GB: {memory:g} GB is left out",
                    file=sys.stderr,
                )
            else:
                found = find_largest(points, way, memory)
                record["largest"].setdefault(f"{memory:g}", {})[way] = found
                save()
            progress.advance(6)
        for size in sizes:
            for way in options.ways:
                points.get(way, size)
                progress.advance(1)
            if options.rounds:
                record["seconds"][str(size)] = {**times(options, size), "conditions": records.conditions()}
                save()


def main() -> None:
    """Compile what the file does not hold yet, then print the tables and draw."""
    with mistakes_in_one_line():
        options = parse(Options, None, description=__doc__)
        check(options)
        device = records.device_name(options.target)
        empty = {"conditions": records.conditions(), "points": {}, "largest": {}, "seconds": {}}
        record = records.read(device, "scaling") or empty
        measure(options, record, lambda: records.write(device, "scaling", record))
        print(tables(record, options))
        for file in picture(record, options, device):
            print(file)


if __name__ == "__main__":
    main()
