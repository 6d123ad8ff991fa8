"""Class every equation of a function as S (preserves information) or K (erases it).

An equation is S if one operand can be solved for, given its results and its other operands. Among inverses
for the operands that matter most (see `facts.py`) the best one counts.

The names are those of the combinators: B f g x = f (g x) hands a value on, W f x = f x x uses it twice,
S f g x = f x (g x) is what an inverse with side information undoes, and K x y = x drops.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import operator
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any
from typing import Literal as Choice

import jax
from jax.extend.core import Literal

from bwsk_jax.classification.bodies import AS_WRITTEN, bodies
from bwsk_jax.classification.calls import apart
from bwsk_jax.classification.equations import Claim, Entry, reference_claim, strict_claim
from bwsk_jax.classification.report import Line, Module, Phase, Report
from bwsk_jax.classification.values import Facts, Standing
from bwsk_jax.classification.ways_back import leaving, preserves, reference_preserves, way_back
from bwsk_jax.engine.program.jaxprs import Equation, Program, trace
from bwsk_jax.engine.program.types import is_differentiable, is_key
from bwsk_jax.engine.program.vjp import kept_by_autodiff
from bwsk_jax.engine.rules import costs
from bwsk_jax.engine.rules.exactness import Grade

__all__ = ["classify"]


def classify(
    fun: Callable,
    *args: Any,
    wrt: int | Sequence[int] | None = None,
    taxonomy: Choice["strict", "reference"] = "strict",
) -> Report:
    """Say of every equation of `fun` whether it preserves (S) or erases (K) information, and why.

    Descends into calls, loops, conditionals and custom derivatives. The function is traced, not run.

    Args:
      fun: a function of pytrees of arrays.
      *args: arrays or `jax.ShapeDtypeStruct`s.
      wrt: the numbers of the arguments whose information is followed; the others count as parameters, which
        the way back may read. By default all are followed, with what was computed from them before them.
      taxonomy: "strict", or "reference": dropout and activation functions are K, all else is S. It counts the
        leaf modules of BERT as the PyTorch original does.

    Raises:
      TypeError, ValueError: `wrt` names no argument, or `taxonomy` none of the two.

    >>> import bwsk_jax, jax, jax.numpy as jnp
    >>> x, w = jax.ShapeDtypeStruct((4, 8), jnp.float32), jax.ShapeDtypeStruct((8, 2), jnp.float32)
    >>> for line in bwsk_jax.classify(lambda x, w: jnp.exp(x) @ w, x, w).lines:
    ...     print(line.kind, line.primitive, "|", line.why)
    S exp | operand 0 from the result
    K dot_general | a projection to fewer dimensions
    """
    if taxonomy not in ("strict", "reference"):
        raise ValueError(f'taxonomy is {taxonomy!r}, and has to be "strict" or "reference"')
    leaves, tree = jax.tree.flatten(args)
    flat = lambda *leaves: fun(*jax.tree.unflatten(tree, leaves))
    named = _numbers(wrt, len(args))
    program, consts, _ = trace(flat, *leaves, **AS_WRITTEN)
    plain, _, _ = trace(flat, *leaves)
    followed = Standing.ARGUMENT if wrt is None else Standing.DATA
    standings = [Standing.KNOWN] * len(consts)
    for number, arg in enumerate(args):
        standing = followed if number in named else Standing.KNOWN
        standings += [standing] * len(jax.tree.leaves(arg))
    found = _Findings()
    _walk(_Body(program, plain, standings), _TAXONOMIES[taxonomy], found)
    return Report(
        taxonomy, tuple(found.lines), tuple(found.phases), tuple(_leaves(found.modules)), dict(found.values)
    )


def _numbers(wrt: int | Sequence[int] | None, count: int) -> set[int]:
    """The arguments that `wrt` names, from 0."""
    if wrt is None:
        return set(range(count))
    try:
        named = [operator.index(n) for n in (wrt if isinstance(wrt, Iterable) else [wrt])]
    except TypeError:
        raise TypeError(f"wrt is {wrt!r}, and has to be the number of an argument, or several") from None
    if strangers := [n for n in named if not -count <= n < count]:
        raise ValueError(f"wrt names argument {strangers[0]}, and the function is given {count}")
    return {n % count for n in named}


@dataclasses.dataclass(frozen=True, eq=False)
class _Body:
    """A program as written, the same as JAX differentiates it, how its inputs stand, and where it is."""

    program: Program
    plain: Program
    standings: Sequence[Standing]
    parent: int | None = None
    depth: int = 0
    repeats: int = 1
    module: str = ""


@dataclasses.dataclass
class _Findings:
    """What a walk through all bodies collects."""

    lines: list[Line] = dataclasses.field(default_factory=list)
    phases: list[Phase] = dataclasses.field(default_factory=list)
    modules: list[Module] = dataclasses.field(default_factory=list)
    values: Counter = dataclasses.field(default_factory=lambda: Counter(B=0, W=0, K=0))
    bodies: int = 0


def _walk(body: _Body, taxonomy: _Taxonomy, found: _Findings) -> None:
    facts = Facts(body.program, body.standings)
    label = functools.partial(_label, found.bodies)
    found.bodies += 1
    entries = []
    for equation in body.program.equations:
        number = len(found.lines)
        inner = list(bodies(equation, facts.standing))
        claim = None if inner else taxonomy.claim(equation, facts)
        entries.append(Entry(number, equation, claim))
        found.lines.append(_line(entries[-1], body, facts, label))
        for program, plain, standings in inner:
            repeats = body.repeats * equation.params.get("length", 1)
            module = _module(body, equation)
            within = _Body(program, plain, standings, number, body.depth + 1, repeats, module)
            _walk(within, taxonomy, found)
    found.phases += _phases(body, entries, facts, label)
    found.modules += _modules(body, entries, facts, taxonomy)
    for value in (*body.program.inputs, *(v for e in entries for v in e.equation.outputs)):
        uses = facts.readers[value]
        found.values["W" if uses > 1 else "B" if uses else "K"] += body.repeats


def _label(body: int, atom: int | Literal) -> str:
    return str(atom.val) if isinstance(atom, Literal) else f"{body}:{atom}"


def _module(body: _Body, equation: Equation) -> str:
    """The name stack, without the specifications that `einsum` puts on it, or else the calling classes."""
    scopes = [scope for scope in equation.module.split("/") if scope and "->" not in scope]
    if not scopes and (callers := equation.callers):
        return callers
    return "/".join(filter(None, (body.module, *scopes)))


def _line(entry: Entry, body: _Body, facts: Facts, label: Callable) -> Line:
    equation, claim = entry.equation, entry.claim or Claim("B", "the composition of what is inside")
    inverse, given = claim.inverse, claim.given(equation)
    return Line(
        number=entry.line,
        parent=body.parent,
        depth=body.depth,
        kind=claim.kind,
        primitive=str(equation.primitive),
        why=claim.why,
        operand=None if inverse is None else inverse.operand,
        given=tuple(map(label, given)),
        side_bytes=sum(facts.origin_bytes[v] for v in given),
        grade="" if inverse is None else inverse.grade.value,
        amplification=1.0 if inverse is None else inverse.amplification,
        condition="" if inverse is None or inverse.grade is not Grade.GUARDED else inverse.condition,
        inputs=tuple(map(label, equation.inputs)),
        outputs=tuple(map(label, equation.outputs)),
        in_types=_types(equation.in_avals),
        types=_types(equation.out_avals),
        bytes_in=facts.bytes(equation.reads),
        bytes_out=facts.bytes(equation.outputs),
        flops=costs.cost(equation),
        repeats=body.repeats,
        module=_module(body, equation),
        source=equation.line,
    )


def _types(avals: Iterable[Any]) -> tuple[str, ...]:
    return tuple(aval.str_short(short_dtypes=True) for aval in avals)


def _phases(body: _Body, entries: Sequence[Entry], facts: Facts, label: Callable) -> Iterator[Phase]:
    preserves = lambda entry: entry.claim is not None and entry.claim.kind != "K"
    runs = [list(run) for preserving, run in itertools.groupby(entries, preserves) if preserving]
    if not runs:
        return
    residuals = kept_by_autodiff(body.plain, body.program)
    for run in runs:
        made = {v: None for entry in run for v in entry.equation.outputs}
        entering = {v: None for entry in run for v in entry.equation.reads if v not in made}
        recovered, side = way_back(run, facts)
        back = [v for v in recovered if residuals is not None and v in residuals]
        yield Phase(
            first=run[0].line,
            last=run[-1].line,
            lines=tuple(entry.line for entry in run),
            bytes_in=facts.bytes(entering),
            bytes_out=facts.bytes(leaving(run, facts)),
            gives_back=None if residuals is None else tuple(map(label, back)),
            bytes_given_back=facts.bytes(back),
            given=tuple(map(label, side)),
            repeats=body.repeats,
        )


def _modules(body: _Body, entries: Sequence[Entry], facts: Facts, taxonomy: _Taxonomy) -> Iterator[Module]:
    named: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.claim is not None and (name := _module(body, entry.equation)):
            named.setdefault(name, []).append(entry)
    groups = [(name, group) for name, entries in named.items() for group in apart(entries, facts)]
    for name, group in sorted(groups, key=lambda found: found[1][0].line):
        equations = [entry.equation for entry in group]
        yield Module(
            name=name,
            kind="S" if taxonomy.preserves(group, facts) else "K",
            lines=tuple(entry.line for entry in group),
            bytes=sum(facts.bytes(equation.reads) for equation in equations),
            flops=sum(map(costs.cost, equations)),
            repeats=body.repeats,
            leaf=not _only_draws_keys(equations),
        )


def _only_draws_keys(equations: Sequence[Equation]) -> bool:
    """Whether a module is no layer of its own but a layer's source of keys."""
    avals = [aval for equation in equations for aval in (*equation.in_avals, *equation.out_avals)]
    return any(map(is_key, avals)) and not any(map(is_differentiable, avals))


def _leaves(modules: Sequence[Module]) -> Iterator[Module]:
    for module in modules:
        inside = any(other.leaf and other.name.startswith(f"{module.name}/") for other in modules)
        yield dataclasses.replace(module, leaf=module.leaf and not inside)


@dataclasses.dataclass(frozen=True)
class _Taxonomy:
    """What is said of an equation, and whether a module preserves."""

    claim: Callable[[Equation, Facts], Claim]
    preserves: Callable[[Sequence[Entry], Facts], bool]


_TAXONOMIES = {
    "strict": _Taxonomy(strict_claim, preserves),
    "reference": _Taxonomy(reference_claim, reference_preserves),
}
