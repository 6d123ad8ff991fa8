"""Are predicted meetings those that compilers make, and are they needed?

    python -m experiments.coordination                     (24 families of models on 8 simulated CPU devices)
    python -m experiments.coordination --target v5e-16     (BERT-base on TPUs; also v5e-256 and v5p-128)
    python -m experiments.coordination --paper v5p         (step times on paper, on 8 to 1,024 chips)

Claim: `bwsk_jax.calm` says without a compiler where XLA lets devices meet. On 8 CPU devices 24 families meet
as predicted in kind, mesh axes, bytes and times, split by batch (data), with all parameters split too (fsdp),
and by sequence, or but for differences of which the reason is named and has a test. By `prove`, no equation
needs a meeting that is not predicted. On TPUs at least 99% of BERT-base's meetings agree, with data and with
data x model.
Measured: the multiset of the collectives of the compiled gradient against the prediction, and the pairs of
equation and mesh axis of the interference test. On paper: the bytes of the predicted meetings over the links
of a chip, and the products of a step at its peak; see `paper`.
Expected: experiments/results/<device>/coordination.json, and the table that the program prints from it, of
which docs/figures.md has the sums.
Cost: 5 minutes for the families on 2 idle cores and 2 GiB; 3 minutes for a target of 16 chips and 10 for one
of 256, which need `pip install libtpu`; 3 minutes on paper. What the file holds already is skipped.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax

from bwsk_jax import bert
from bwsk_jax.errors import mistakes_in_one_line
from bwsk_jax.training.progress import TaskProgress
from bwsk_jax.usage import UsageError, parse
from experiments import records
from experiments.coordination import paper
from experiments.coordination.families import DEVICES, SPLITS, compare_family
from experiments.coordination.targets import LAYOUTS, compare_target
from experiments.families import FAMILIES


@dataclasses.dataclass(frozen=True)
class Options:
    """What is compared."""

    target: str | None = None
    """v5e-16 and so on; by default the families, on simulated devices here."""
    paper: str | None = None
    """A kind of chip, such as v5p: estimate the step times of two models and compile nothing."""
    families: tuple[str, ...] = tuple(FAMILIES)
    splits: tuple[str, ...] = tuple(SPLITS)
    layouts: tuple[str, ...] = ("data", "data x model")
    """Of BERT on a target; also "data x sequence" and "fsdp"."""
    preset: Literal["base", "mini", "demo"] = "base"


def cases(options: Options) -> dict[str, Callable[[], dict[str, Any]]]:
    """What is to be compared, by its name in the file."""
    if options.target is None:
        pairs = itertools.product(options.families, options.splits)
        return {f"{f}, {s}": lambda f=f, s=s: compare_family(f, s) for f, s in pairs}
    target, config = options.target, bert.PRESETS[options.preset]
    return {
        f"BERT-{options.preset}, {layout}": lambda layout=layout: compare_target(target, layout, config)
        for layout in options.layouts
    }


def check(options: Options) -> None:
    """Raise `UsageError` for a name that there is not."""
    for flag, names, known in (
        ("--families", options.families, FAMILIES),
        ("--splits", options.splits, SPLITS),
        ("--layouts", options.layouts, LAYOUTS),
    ):
        if unknown := [name for name in names if name not in known]:
            raise UsageError(f"{flag} {', '.join(unknown)}: there are {'; '.join(known)}")


def tables(record: dict[str, Any]) -> str:
    """The table of what a file holds, and of the families what they come to."""
    heads = ("program", "predicted", "compiled", "agree", "reasons of the others")
    rows = [
        (
            name,
            *(f"{found[key]:,}" for key in ("predicted", "compiled", "agreeing")),
            "; ".join(dict.fromkeys(each.rpartition(": ")[2] for each in found["differences"])),
        )
        for name, found in record["programs"].items()
    ]
    return "\n".join([_markdown([heads, *rows]), "", *sums(list(record["programs"].values()))])


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *others = rows
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *others))


def on_paper(chip: str) -> list[tuple[str, ...]]:
    """The table of estimates for a kind of chip, which are kept in its file."""
    names = list(itertools.product(paper.MODELS, paper.LAYOUTS, paper.CHIPS))
    found = {}
    with TaskProgress("coordination", len(names)) as progress:
        for model, layout, chips in names:
            found[f"{model}, {layout}, {chips:,}"] = paper.estimate(model, layout, chips, chip)
            progress.advance(1)
    records.write(chip, "coordination_paper", {"conditions": records.conditions(), "estimates": found})
    return paper.rows(found)


def sums(found: Sequence[dict[str, Any]]) -> list[str]:
    """In how many programs all meetings agree, and what the interference test found in all of them."""
    total = lambda key: sum(each.get(key, 0) for each in found)
    equal = sum(not each["differences"] for each in found)
    reasonless = total("without a reason")
    lines = [f"{equal} of {len(found)} programs meet as predicted; {reasonless} differences have no reason"]
    if pairs := total("pairs"):
        missed, skipped = total("needed but not predicted"), total("skipped")
        lines.append(
            f"of {pairs:,} pairs of equation and axis {missed} need a meeting that is not predicted, "
            f"{total('predicted though no dependence was seen')} have one though no dependence was seen, "
            f"and {skipped} were skipped ({skipped / pairs:.1%})"
        )
    return lines


def main() -> None:
    """Compare what the file does not hold yet, and print the table."""
    with mistakes_in_one_line():
        options = parse(Options, None, description=__doc__)
        check(options)
        if options.paper:
            print(_markdown(on_paper(options.paper)))
            return
        if options.target is None:
            jax.config.update("jax_num_cpu_devices", DEVICES)
        device = records.device_name(options.target)
        record = records.read(device, "coordination") or {"conditions": records.conditions(), "programs": {}}
        todo = {name: run for name, run in cases(options).items() if name not in record["programs"]}
        with TaskProgress("coordination", len(todo)) as progress:
            for name, run in todo.items():
                record["programs"][name] = run()
                records.write(device, "coordination", record)
                progress.advance(1)
        print(tables(record))


if __name__ == "__main__":
    main()
