"""Class every equation of a function as S (preserves information) or K (erases it).

An equation is S if one operand can be solved for, given its results and its other operands. Which operand
matters: `x + bias` should give back x, not the bias. So values have a standing: `DATA` was computed (or is an
argument that the caller names), an `ARGUMENT` may be data or a parameter, and what is `KNOWN` depends on
nothing that is followed. Among inverses for operands of the highest standing the best one counts.

The names are those of the combinators: B f g x = f (g x) hands a value on, W f x = f x x uses it twice,
S f g x = f x (g x) is what an inverse with side information undoes, and K x y = x drops.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any
from typing import Literal as Choice

import jax
from jax import lax
from jax.extend.core import Literal
from jax.extend.core import primitives as p

from bwsk_jax.engine import costs, intervals, rules
from bwsk_jax.engine.jaxprs import (
    CUSTOM_DERIVATIVES,
    INLINED,
    Equation,
    Program,
    aval_of,
    kept_by_autodiff,
    nbytes,
    subprograms,
    trace,
)
from bwsk_jax.engine.report import Line, Module, Phase, Report
from bwsk_jax.engine.rules import Grade, Inverse
from bwsk_jax.engine.taxonomy import DEAR, ERASES, REFERENCE_ERASES

__all__ = ["classify"]

SMALL = 0.5
"""Side information that is no larger than this, as a fraction of what it helps to recover, is small."""


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
    program, consts, _ = trace(flat, *leaves, **_AS_WRITTEN)
    plain, _, _ = trace(flat, *leaves)
    named = range(len(args)) if wrt is None else [wrt] if isinstance(wrt, int) else wrt
    followed = Standing.ARGUMENT if wrt is None else Standing.DATA
    standings = [Standing.KNOWN] * len(consts)
    for number, arg in enumerate(args):
        standing = followed if number in {n % len(args) for n in named} else Standing.KNOWN
        standings += [standing] * len(jax.tree.leaves(arg))
    found = _Findings()
    _walk(_Body(program, plain, standings), _TAXONOMIES[taxonomy], found)
    return Report(
        taxonomy, tuple(found.lines), tuple(found.phases), tuple(_leaves(found.modules)), dict(found.values)
    )


class Standing(enum.IntEnum):
    """How likely it is that a value carries the information that is looked for."""

    KNOWN = 0
    ARGUMENT = 1
    DATA = 2


# --- bodies ------------------------------------------------------------------------------------------------


def _is_transparent(equation: Any) -> bool:
    """Whether a call is read as its body stood in its place."""
    return equation.primitive in (INLINED | CUSTOM_DERIVATIVES) and not rules.is_registered(equation)


_AS_WRITTEN = {"merged": False, "inlined": _is_transparent}


def _bodies(equation: Equation, standing_of: Callable) -> Iterator[tuple[Program, Program, list[Standing]]]:
    """The programs inside a loop, conditional or call, and how their inputs stand."""
    if _has_rule(equation):
        return
    outer = [standing_of(value) for value in equation.inputs]
    inputs_of = _INPUTS.get(equation.primitive, lambda equation, program, outer, number: outer)
    pairs = zip(subprograms(equation, **_AS_WRITTEN), subprograms(equation), strict=True)
    for number, (program, plain) in enumerate(pairs):
        inputs = inputs_of(equation, program, outer, number)
        if len(inputs) != len(program.inputs):  # no call of its body
            return
        yield program, plain, inputs


def _has_rule(equation: Equation) -> bool:
    tables = (rules.INVERSES, DEAR, ERASES)
    return rules.is_registered(equation) or any(equation.primitive in table for table in tables)


def _scan_inputs(equation, program, outer, number):
    """What is scanned over has one axis less inside, and so has what is collected; the rest is carried."""
    rank = lambda aval: len(aval.shape)
    carried = sum(
        rank(outside) == rank(aval_of(program, inside))
        for outside, inside in zip(equation.out_avals, program.outputs, strict=True)
    )
    scanned = sum(
        rank(outside) > rank(aval_of(program, inside))
        for outside, inside in zip(equation.in_avals, program.inputs, strict=True)
    )
    last = len(outer) - scanned
    return [*outer[: last - carried], *[Standing.DATA] * carried, *outer[last:]]


def _while_inputs(equation, program, outer, number):
    counts = (equation.params["cond_nconsts"], equation.params["body_nconsts"])
    start = counts[0] if number else 0
    return [*outer[start : start + counts[number]], *[Standing.DATA] * (len(outer) - sum(counts))]


_INPUTS: dict[Any, Callable[[Equation, Program, list[Standing], int], list[Standing]]] = {
    p.scan_p: _scan_inputs,
    p.while_p: _while_inputs,
    p.cond_p: lambda equation, program, outer, number: outer[1:],
}


# --- what is known of values -------------------------------------------------------------------------------


class _Facts:
    """What is known of the values of one program without computing them.

    `origin_bytes[v]` is the size of v where it was smallest on its way, `roots[v]` are the inputs that it was
    computed from, `masks` hold values that may be 0 because they were a condition, and `readers[v]` counts
    who reads v, the program's outputs included.
    """

    def __init__(self, program: Program, standings: Sequence[Standing]):
        self.program = program
        self.standings = dict.fromkeys(program.constants, Standing.KNOWN)
        self.standings |= dict(zip(program.inputs, standings, strict=True))
        self.origin_bytes = {v: nbytes(program.avals[v]) for v in self.standings}
        self.roots = {v: frozenset([v]) for v in self.standings}
        self.masks: set[int] = set()
        self.bounds: dict[int, intervals.Interval] = {}
        for equation in program.equations:
            self._add(equation)
        self.readers = Counter(v for e in program.equations for v in e.reads)
        self.readers.update(v for v in program.outputs if not isinstance(v, Literal))

    def _add(self, equation: Equation) -> None:
        moves = equation.primitive in _MOVES and len(equation.reads) == 1
        standing = max(map(self.standing, equation.inputs), default=Standing.KNOWN)
        if standing is Standing.ARGUMENT and not moves:
            standing = Standing.DATA
        bounds = intervals.interval(equation, [self.interval(v) for v in equation.inputs])
        was_bool = moves and equation.in_avals[0].dtype == bool
        scales = moves or equation.primitive in (p.mul_p, p.div_p)
        masked = was_bool or (scales and not self.masks.isdisjoint(equation.reads))
        roots = frozenset().union(*(self.roots[v] for v in equation.reads))
        for value, aval in zip(equation.outputs, equation.out_avals, strict=True):
            self.roots[value] = roots
            self.standings[value] = standing
            self.bounds[value] = bounds
            self.origin_bytes[value] = nbytes(aval)
            if moves:
                self.origin_bytes[value] = min(nbytes(aval), self.origin_bytes[equation.reads[0]])
            if masked:
                self.masks.add(value)

    def standing(self, atom: int | Literal) -> Standing:
        return Standing.KNOWN if isinstance(atom, Literal) else self.standings[atom]

    def interval(self, atom: int | Literal) -> intervals.Interval:
        if isinstance(atom, Literal):
            return intervals.literal_interval(atom)
        return self.bounds.get(atom, intervals.ANY)


_MOVES = {
    *(p.reshape_p, p.squeeze_p, p.broadcast_in_dim_p, p.transpose_p, p.rev_p, p.copy_p, p.stop_gradient_p),
    *(p.convert_element_type_p, p.name_p, p.slice_p, lax.tile_p, p.sharding_constraint_p),
}
"""What hands its operand on in another form: a parameter stays a parameter."""


# --- claims ------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Claim:
    """What is said of an equation; `inverse` shows it if it is S."""

    kind: str
    why: str
    inverse: Inverse | None = None

    def given(self, equation: Equation) -> tuple[int, ...]:
        """The values that the inverse takes besides the results."""
        if self.inverse is None:
            return ()
        read = self.inverse.reads
        others = range(len(equation.inputs)) if read is None else read
        atoms = (equation.inputs[k] for k in others if k != self.inverse.operand)
        return tuple(dict.fromkeys(v for v in atoms if not isinstance(v, Literal)))


def _strict(equation: Equation, facts: _Facts) -> _Claim:
    if not equation.reads:
        return _Claim("S", "it has no operand to lose")
    outputs = [v for v in equation.outputs if nbytes(facts.program.avals[v])]
    if any(facts.readers[v] == 0 for v in outputs):
        return _Claim("K", "computed and dropped")
    leading = _leading(equation, facts)
    claims = [
        _Claim("~S" if inverse.grade is Grade.NARROWED else "S", "", inverse)
        for inverse in _inverses(equation, facts)
        if equation.inputs[inverse.operand] in leading and not _may_be_masked(equation, facts, inverse)
    ]
    if not claims:
        return _Claim("K", ERASES.get(equation.primitive, "no rule"))
    side = lambda claim: sum(facts.origin_bytes[v] for v in claim.given(equation))
    rank = lambda claim: (list(Grade).index(claim.inverse.grade), side(claim), claim.inverse.operand)
    best = min(claims, key=rank)
    read = best.inverse.reads if best.inverse.reads is not None else range(len(equation.inputs))
    others = [k for k in read if k != best.inverse.operand]
    values = ", ".join(f"operand {k}" for k in others if not isinstance(equation.inputs[k], Literal))
    constants = "constants" if any(isinstance(equation.inputs[k], Literal) for k in others) else ""
    sources = " and ".join(filter(None, ("the result", values, constants)))
    return dataclasses.replace(best, why=f"operand {best.inverse.operand} from {sources}")


def _inverses(equation: Equation, facts: _Facts) -> list[Inverse]:
    dear = DEAR.get(equation.primitive, lambda *_: ())
    return [*rules.inverses(equation, facts.interval), *dear(equation, facts.interval)]


def _leading(equation: Equation, facts: _Facts) -> set[int]:
    """The operands that would have to come back: those of the highest standing, and what they come from.

    A contraction of two of them is read as a map of the vector, of the larger one if both were computed,
    and of the first otherwise, as layers and their inputs are written.
    """
    highest = max(map(facts.standing, equation.reads))
    leading = [v for v in equation.reads if facts.standing(v) is highest]
    if equation.primitive is not p.dot_general_p:
        return set(leading).union(*(facts.roots[v] for v in leading))
    if len(set(leading)) < 2:
        return set(leading)
    avals = equation.in_avals
    vectors = [v for v, aval in zip(leading, avals, strict=True) if len(aval.shape) == 1]
    if len(vectors) == 1:
        return set(vectors)
    if highest is Standing.DATA and nbytes(avals[1]) > nbytes(avals[0]):
        return {leading[1]}
    return {leading[0]}


def _may_be_masked(equation: Equation, facts: _Facts, inverse: Inverse) -> bool:
    """Whether the inverse would divide by a mask."""
    if equation.primitive is not p.mul_p:
        return False
    other = equation.inputs[1 - inverse.operand]
    return not isinstance(other, Literal) and other in facts.masks


def _reference(equation: Equation, facts: _Facts) -> _Claim:
    if equation.primitive in REFERENCE_ERASES:
        return _Claim("K", "the reference counts dropout and activations as erasing")
    return _Claim("S", "the reference counts all but dropout and activations as preserving")


# --- lines, phases, modules --------------------------------------------------------------------------------


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


@dataclasses.dataclass(frozen=True)
class _Entry:
    """An equation of a body, its line's number, and what is said of it: nothing if it is a composition."""

    line: int
    equation: Equation
    claim: _Claim | None


@dataclasses.dataclass
class _Findings:
    """What a walk through all bodies collects."""

    lines: list[Line] = dataclasses.field(default_factory=list)
    phases: list[Phase] = dataclasses.field(default_factory=list)
    modules: list[Module] = dataclasses.field(default_factory=list)
    values: Counter = dataclasses.field(default_factory=lambda: Counter(B=0, W=0, K=0))
    bodies: int = 0


def _walk(body: _Body, taxonomy: _Taxonomy, found: _Findings) -> None:
    facts = _Facts(body.program, body.standings)
    label = functools.partial(_label, found.bodies)
    found.bodies += 1
    entries = []
    for equation in body.program.equations:
        number = len(found.lines)
        inner = list(_bodies(equation, facts.standing))
        claim = None if inner else taxonomy.claim(equation, facts)
        entries.append(_Entry(number, equation, claim))
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


def _line(entry: _Entry, body: _Body, facts: _Facts, label: Callable) -> Line:
    equation, claim = entry.equation, entry.claim or _Claim("B", "the composition of what is inside")
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
        bytes_in=_bytes(facts, equation.reads),
        bytes_out=_bytes(facts, equation.outputs),
        flops=costs.cost(equation),
        repeats=body.repeats,
        module=_module(body, equation),
        source=equation.line,
    )


def _types(avals: Iterable[Any]) -> tuple[str, ...]:
    return tuple(aval.str_short(short_dtypes=True) for aval in avals)


def _bytes(facts: _Facts, values: Iterable[int]) -> int:
    return sum(nbytes(facts.program.avals[v]) for v in dict.fromkeys(values))


def _phases(body: _Body, entries: Sequence[_Entry], facts: _Facts, label: Callable) -> Iterator[Phase]:
    preserves = lambda entry: entry.claim is not None and entry.claim.kind != "K"
    runs = [list(run) for preserving, run in itertools.groupby(entries, preserves) if preserving]
    if not runs:
        return
    residuals = kept_by_autodiff(body.plain, body.program)
    for run in runs:
        made = {v: None for entry in run for v in entry.equation.outputs}
        entering = {v: None for entry in run for v in entry.equation.reads if v not in made}
        inside = Counter(v for entry in run for v in entry.equation.reads)
        leaving = [v for v in made if facts.readers[v] > inside[v]]
        recovered, side = _way_back(run, facts, leaving)
        back = [v for v in recovered if residuals is not None and v in residuals]
        yield Phase(
            first=run[0].line,
            last=run[-1].line,
            lines=tuple(entry.line for entry in run),
            bytes_in=_bytes(facts, entering),
            bytes_out=_bytes(facts, leaving),
            gives_back=None if residuals is None else tuple(map(label, back)),
            bytes_given_back=_bytes(facts, back),
            given=tuple(map(label, side)),
            repeats=body.repeats,
        )


def _way_back(run: Sequence[_Entry], facts: _Facts, leaving: Sequence[int]) -> tuple[list[int], list[int]]:
    """What the inverses of a run recover from what leaves it, and what else that takes from outside it."""
    comes_from: dict[int, set[int]] = {}
    for entry in run:
        read = set().union(*(comes_from.get(v, {v}) for v in entry.equation.reads))
        comes_from.update(dict.fromkeys(entry.equation.outputs, read))
    known, side, recovered = set(leaving), {}, {}
    for entry in reversed(run):
        equation, claim = entry.equation, entry.claim
        if claim.inverse is None or not known.issuperset(equation.outputs):
            continue
        target, given = equation.inputs[claim.inverse.operand], claim.given(equation)
        computes_it = comes_from.get(target, {target}).intersection(given)
        if target in known or computes_it or any(v in comes_from and v not in known for v in given):
            continue
        side.update(dict.fromkeys(v for v in given if v not in known))
        known.update((target, *given))
        recovered[target] = None
    return [v for v in recovered if v not in side], list(side)


def _modules(body: _Body, entries: Sequence[_Entry], facts: _Facts, taxonomy: _Taxonomy) -> Iterator[Module]:
    groups: dict[str, list[_Entry]] = {}
    for entry in entries:
        if entry.claim is not None and (name := _module(body, entry.equation)):
            groups.setdefault(name, []).append(entry)
    for name, group in groups.items():
        equations = [entry.equation for entry in group]
        yield Module(
            name=name,
            kind="S" if taxonomy.preserves(group, facts) else "K",
            lines=tuple(entry.line for entry in group),
            bytes=sum(_bytes(facts, equation.reads) for equation in equations),
            flops=sum(map(costs.cost, equations)),
            repeats=body.repeats,
        )


def _leaves(modules: Sequence[Module]) -> Iterator[Module]:
    for module in modules:
        inside = any(other.name.startswith(f"{module.name}/") for other in modules)
        yield dataclasses.replace(module, leaf=not inside)


def _preserves(group: Sequence[_Entry], facts: _Facts) -> bool:
    """Whether a followed input of the module comes back from its outputs and what is at hand or small."""
    made = {v for entry in group for v in entry.equation.outputs}
    inputs = {v: None for entry in group for v in entry.equation.reads if v not in made}
    highest = max(map(facts.standing, inputs), default=Standing.KNOWN)
    if highest is Standing.KNOWN:
        return True
    inside = Counter(v for entry in group for v in entry.equation.reads)
    leaving = {v for v in made if facts.readers[v] > inside[v]}
    followed = [v for v in inputs if facts.standing(v) is highest]
    at_hand = {v for v in made if facts.standing(v) < Standing.DATA}.union(inputs)
    return any(_comes_back(v, group, facts, leaving, at_hand) for v in followed)


def _comes_back(
    target: int, group: Sequence[_Entry], facts: _Facts, leaving: set[int], at_hand: set[int]
) -> bool:
    """Whether `target` can be solved for from what leaves the module, what is at hand, and little else."""
    sources = _smallest_sources(group, facts, at_hand - {target})
    known, side = set(leaving), set()
    for entry in reversed(group):
        equation, claim = entry.equation, entry.claim
        if claim.inverse is not None and known.issuperset(equation.outputs):
            known.add(equation.inputs[claim.inverse.operand])
            side.update(*(sources(v) for v in claim.given(equation) if v not in known))
    return target in known and sum(facts.origin_bytes[v] for v in side) <= SMALL * facts.origin_bytes[target]


def _smallest_sources(group: Sequence[_Entry], facts: _Facts, at_hand: set[int]) -> Callable[[int], set[int]]:
    """Of a value: itself, or what it can be computed from if that is smaller; nothing if it is at hand."""
    size = lambda values: sum(facts.origin_bytes[v] for v in values)
    sources: dict[int, set[int]] = {v: set() for v in at_hand}
    for entry in group:
        from_inputs = set().union(*(sources.get(v, {v}) for v in entry.equation.reads))
        for v in entry.equation.outputs:
            sources.setdefault(v, min({v}, from_inputs, key=size))
    return lambda v: sources.get(v, {v})


def _reference_preserves(group: Sequence[_Entry], facts: _Facts) -> bool:
    size = lambda entry: math.prod(entry.equation.out_avals[0].shape)
    largest = max(map(size, group))
    needs_size = lambda entry: REFERENCE_ERASES[entry.equation.primitive]
    erasing = [entry for entry in group if entry.claim.kind == "K"]
    return not any(size(entry) == largest or not needs_size(entry) for entry in erasing)


@dataclasses.dataclass(frozen=True)
class _Taxonomy:
    """What is said of an equation, and whether a module preserves."""

    claim: Callable[[Equation, _Facts], _Claim]
    preserves: Callable[[Sequence[_Entry], _Facts], bool]


_TAXONOMIES = {
    "strict": _Taxonomy(_strict, _preserves),
    "reference": _Taxonomy(_reference, _reference_preserves),
}
