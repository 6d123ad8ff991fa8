"""Networks that are reversible by construction: the backward pass by plan against the one by hand.

    python -m experiments.reversible_nets
    python -m experiments.reversible_nets --depths 12 --nets RevNet leapfrog --rounds 3      (seconds)
    python -m experiments.reversible_nets --target v5e --width 512 --batch 32 --time 256     (bytes alone)

Claim: `reversible_scan` at least memory is given nothing but one layer as a plain function, and takes as much
memory and time as the reversible code that one writes by hand: a `jax.custom_vjp` that keeps the last output
and goes back layer by layer with inverses and cotangents derived on paper.
Measured for RevNet, Reformer, RealNVP, a momentum net, a leapfrog and a reversible Heun integrator: the
temporaries of the compiled gradient, its time in turns, and how far it is from the gradient that plain
autodiff takes in float64, as a share of the norm. The Heun integrator meets diffrax too, if that is there.
Expected: experiments/results/<device>/reversible_nets.json, the table that the program prints from it, and
docs/figures/reversible_nets_<device>_light.svg and _dark.svg.
Cost: about 15 minutes on 2 idle cores and 3 GiB; it skips what the file holds already of the same sizes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from matplotlib.axes import Axes

from bwsk_jax.errors import mistakes_in_one_line
from bwsk_jax.targets import CompiledProgram, compile_for, find_target
from bwsk_jax.training.progress import TaskProgress
from bwsk_jax.usage import UsageError, parse
from experiments import records
from experiments.distance import distance
from experiments.drawing import draw
from experiments.reversible_nets.heun import diffrax_ways
from experiments.reversible_nets.nets import NETS, Size
from experiments.reversible_nets.ways import HAND, OURS, PLAIN, WAYS, Run, gradient, inputs
from experiments.turns import CLOCKS, Times, in_turns, ratio

SHOWN = ("RevNet", "Reformer", "leapfrog")
"""The nets in the picture."""
HEADS = ("net", "depth", "by hand, KiB", "plan, KiB", "plan / hand", "time, plan / hand", "CPU time")
HEADS += ("error: hand", "plan", "plain", "others: KiB, time / hand, error")


@dataclass(frozen=True)
class Options:
    """What is compared."""

    nets: tuple[str, ...] = tuple(NETS)
    depths: tuple[int, ...] = (12, 100, 1000)
    batch: int = 4
    time: int = 64
    """Positions, or pixels of a square image."""
    width: int = 32
    rounds: int = 40
    """How often each way is timed, in turns."""
    seconds: float = 30
    """After so long a net of one depth is timed no more, once there are three rounds."""
    target: str | None = None
    """v5e, h100 and so on, for temporaries and cycles alone; by default the machine here."""


def ways_of(name: str) -> dict[str, Run]:
    """Return the ways to run a net. diffrax is left out, with the reason, if it cannot be imported."""
    if name != "reversible Heun":
        return WAYS
    try:
        return WAYS | diffrax_ways()
    except ImportError as missing:
        print(f"diffrax is left out: {missing}", file=sys.stderr)
        return WAYS


def truth_of(name: str, size: Size, args: Any) -> Any:
    """Return the gradient that plain autodiff takes in float64."""
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: np.asarray(a, np.float64), args)
        return jax.tree.map(np.asarray, jax.jit(gradient(NETS[name], size, WAYS[PLAIN]))(*wide))


def measured(name: str, size: Size, options: Options) -> dict[str, Any]:
    """Return the figures of each way: temporaries, cycles, and on the machine here error and seconds."""
    net = NETS[name]
    shapes = jax.eval_shape(lambda: inputs(net, size))
    programs = {
        way: compile_for(gradient(net, size, run), *shapes, target=options.target)
        for way, run in ways_of(name).items()
    }
    found: dict[str, Any] = {
        way: {"temporaries": program.temporary_bytes, "cycles": program.cycles}
        for way, program in programs.items()
    }
    if options.target is None:
        args = jax.jit(lambda: inputs(net, size))()
        truth = truth_of(name, size, args)
        for way, program in programs.items():
            found[way]["error"] = distance(program.compiled(*args), truth)
        for way, times in timed(programs, args, options).items():
            found[way] |= times
        found["conditions"] = records.conditions()
    return found


def timed(programs: dict[str, CompiledProgram], args: Any, options: Options) -> dict[str, Times]:
    """Return the times of each way in each round."""

    def runner(program: CompiledProgram) -> Callable[[], object]:
        return lambda: jax.block_until_ready(program.compiled(*args))

    runs = {way: runner(program) for way, program in programs.items()}
    return in_turns(runs, options.rounds, most=options.seconds)


# --- table and picture -------------------------------------------------------------------------------------


def row(name: str, depth: str, found: dict[str, Any]) -> str:
    """Return a line of the table."""
    hand, ours, plain = (found[way] for way in (HAND, OURS, PLAIN))
    kibibytes = lambda figures: f"{figures['temporaries'] / 2**10:,.0f}"
    errors = lambda figures: f"{figures['error']:.1e}" if "error" in figures else ""
    times = lambda figures, clock="seconds": (
        f"{ratio(figures[clock], hand[clock]):.2f}" if figures.get(clock) else ""
    )
    share = ours["temporaries"] / hand["temporaries"] if hand["temporaries"] else float("nan")
    others = [
        f"{way}: {kibibytes(figures)}, {times(figures)}, {errors(figures)}"
        for way, figures in found.items()
        if way not in (HAND, OURS, "conditions")
    ]
    cells = [name, depth, kibibytes(hand), kibibytes(ours), f"{share:.3f}"]
    cells += [times(ours, clock) for clock in CLOCKS]
    cells += [*map(errors, (hand, ours, plain)), "; ".join(others)]
    return f"| {' | '.join(cells)} |"


def table(record: dict[str, Any]) -> str:
    """Return all results in Markdown."""
    lines = [f"| {' | '.join(HEADS)} |", "|---" * len(HEADS) + "|"]
    for name, depths in record["nets"].items():
        lines += [row(name, depth, found) for depth, found in depths.items()]
    return "\n".join(lines)


def picture(record: dict[str, Any], device: str) -> list[Any]:
    """Draw the temporaries against the depth; return the files."""
    names = [name for name in SHOWN if name in record["nets"]]

    def fill(panels: Sequence[Axes], colours: dict[str, str]) -> None:
        styles = {PLAIN: ("theirs", "s--"), HAND: ("theirs", "o-"), OURS: ("ours", "o-")}
        for axes, name in zip(panels, names, strict=True):
            depths = record["nets"][name]
            for way, (colour, style) in styles.items():
                mebibytes = [found[way]["temporaries"] / 2**20 for found in depths.values()]
                axes.plot(list(map(int, depths)), mebibytes, style, color=colours[colour], label=way)
            axes.set(title=name, xlabel="layers", xscale="log", yscale="log")
        panels[0].set_ylabel("temporaries, MiB")
        panels[0].legend()

    return draw(f"reversible_nets_{device}", len(names), fill) if names else []


def measure(options: Options, device: str) -> dict[str, Any]:
    """Measure what the file does not hold yet of these sizes, and return all that it holds then."""
    sizes = {"batch": options.batch, "time": options.time, "width": options.width}
    record = records.read(device, "reversible_nets")
    if record is None or record["sizes"] != sizes:
        record = {"sizes": sizes, "nets": {}}
    cells = [(name, depth) for depth in options.depths for name in options.nets]
    missing = [(name, depth) for name, depth in cells if str(depth) not in record["nets"].get(name, {})]
    with TaskProgress("reversible nets", sum(depth + 50 for _, depth in missing)) as progress:
        for name, depth in missing:
            found = measured(name, Size(**sizes, depth=depth), options)
            record["nets"].setdefault(name, {})[str(depth)] = found
            records.write(device, "reversible_nets", record)
            progress.advance(depth + 50)
    return record


def main() -> None:
    """Measure, write the file, print the table and draw."""
    with mistakes_in_one_line():
        options = parse(Options, None, description=__doc__)
        if unknown := set(options.nets) - set(NETS):
            raise UsageError(f"--nets {', '.join(unknown)}: there are {', '.join(NETS)}")
        find_target(options.target)
        device = records.device_name(options.target)
        record = measure(options, device)
        print(table(record))
        for file in picture(record, device):
            print(file)


if __name__ == "__main__":
    main()
