"""Trace a function into a flat program of numbered values.

The only file that knows how the installed JAX spells its jaxprs, and that reaches into its internals.
Everything behind it works on `Program`: equations over integers, call-like equations inlined, equal equations
on equal inputs merged.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import inspect
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax._src import core
from jax._src.lax import lax as lax_internal
from jax._src.lax import parallel
from jax.extend import source_info_util
from jax.extend.core import Literal
from jax.extend.core import primitives as lax_p

from bwsk_jax.engine.program.types import digits

__all__ = [
    "Equation",
    "Program",
    "aval_of",
    "contains",
    "flatten",
    "literal_value",
    "named_axes",
    "naming_axes",
    "present",
    "read",
    "source_of",
    "source_of_function",
    "subprograms",
    "trace",
]

INLINED = frozenset({lax_p.jit_p, lax_p.closed_call_p, lax_p.remat_p})
"""Calls that mean no more than their body."""
_JAX_FOLDER = os.path.dirname(jax.__file__)
CUSTOM_DERIVATIVES = frozenset({lax_p.custom_jvp_call_p, lax_p.custom_vjp_call_p})


def present(*names: str) -> tuple[Any, ...]:
    """The primitives of these names that the installed JAX has, exported or not."""
    homes = (lax_p, core, parallel, lax_internal)
    found = (next((getattr(h, n) for h in homes if hasattr(h, n)), None) for n in names)
    return tuple(primitive for primitive in found if primitive is not None)


_SILENT = frozenset(present("ppermute_p", "pbroadcast_p"))
"""Primitives that communicate without an effect that says so."""


@dataclasses.dataclass(frozen=True, eq=False)
class Equation:
    """One primitive applied to values (by number) and literals; `outputs` are the numbers it defines.

    `axes` names the mapped axes that it communicates over: no effect, it may be run again. `calls` are the
    sources of the inlined calls that it stood in, outermost first: JAX traces a call once for all its
    callers, so an equation's own source may name none of them, or another one.
    """

    primitive: Any
    params: dict[str, Any]
    inputs: tuple[int | Literal, ...]
    outputs: tuple[int, ...]
    in_avals: tuple[Any, ...]
    out_avals: tuple[Any, ...]
    effects: frozenset
    axes: frozenset[Any]
    source: source_info_util.SourceInfo
    context: Any
    calls: tuple[source_info_util.SourceInfo, ...] = ()

    @contextlib.contextmanager
    def scope(self):
        """What is computed inside counts as this equation's: errors and profiles point at the user's line."""
        stack = source_info_util.current_name_stack() + self.source.name_stack
        with source_info_util.user_context(self.source.traceback, name_stack=stack), self.context.manager:
            yield

    def bind(self, operands: Sequence[Any]) -> list[Any]:
        """Evaluate the equation."""
        with self.scope():
            out = self.primitive.bind(*operands, **self.primitive.get_bind_params(self.params))
        return list(out) if self.primitive.multiple_results else [out]

    @property
    def line(self) -> str:
        """Where the user wrote it, or else the call that it stood in: `file:line (function)`."""
        sources = (self.source, *reversed(self.calls))
        return next(filter(None, map(source_info_util.summarize, sources)), "")

    @property
    def module(self) -> str:
        """The name stack it was traced under, as Linen and NNX write it."""
        return str(self.source.name_stack)

    @property
    def callers(self) -> str:
        """The classes whose `__call__` it was written in, outermost first, each with the line that called it.

        This is what names modules of libraries that leave no name stack, NNX and Equinox among them.
        """
        path = ""
        for found in map(_calling_classes, (*self.calls, self.source)):
            path = found if found.startswith(path) else path
        return path

    @property
    def reads(self) -> tuple[int, ...]:
        """The numbered values among the inputs."""
        return tuple(v for v in self.inputs if not isinstance(v, Literal))


def _calling_classes(source: source_info_util.SourceInfo) -> str:
    traceback: Any = source.traceback
    frames: list[Any] = traceback.frames if traceback else []
    path, line = [], None
    for frame in reversed(frames):
        owner, _, function = frame.function_name.rpartition(".")
        if owner and function == "__call__" and not frame.file_name.startswith(_JAX_FOLDER):
            path.append(owner if line is None else f"{owner}:{line}")
            line = frame.line_num
    return "/".join(path)


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """A flat, single-assignment program: `avals[v]` is the type of value `v`.

    `constants` are arrays found in the jaxpr (not closed-over tracers, which are inputs by the time a
    program is made). An output may be a literal.
    """

    avals: tuple[Any, ...]
    inputs: tuple[int, ...]
    constants: dict[int, Any]
    equations: tuple[Equation, ...]
    outputs: tuple[int | Literal, ...]

    def needed(self, values: Sequence[int | Literal]) -> list[Equation]:
        """The equations that `values` depend on, and those with effects, in order."""
        wanted = {v for v in values if not isinstance(v, Literal)}
        kept = []
        for equation in reversed(self.equations):
            if equation.effects or wanted.intersection(equation.outputs):
                kept.append(equation)
                wanted.update(equation.reads)
        return kept[::-1]

    def evaluate(
        self,
        inputs: Sequence[Any],
        outputs: Sequence[int | Literal],
        bind: Callable[[Equation, Sequence[Any]], Sequence[Any]] = Equation.bind,
    ) -> list[Any]:
        """Values of `outputs` for the given inputs; `bind` evaluates an equation for its operands."""
        environment = dict(self.constants)
        environment.update(zip(self.inputs, inputs, strict=True))
        for equation in self.needed(outputs):
            results = bind(equation, [read(environment, v) for v in equation.inputs])
            environment.update(zip(equation.outputs, results, strict=True))
        return [read(environment, v) for v in outputs]

    def fingerprint(self) -> str:
        """Equal for programs that run the same equations on values of the same types."""
        digest = hashlib.sha256()

        def add(*parts):
            digest.update("|".join(map(str, parts)).encode())
            digest.update(b"\n")

        add(*self.avals)
        add(self.inputs, sorted(self.constants), [_literal_key(v) for v in self.outputs])
        for e in self.equations:
            add(e.primitive, sorted(e.params.items()), [_literal_key(v) for v in e.inputs], e.outputs)
        return digest.hexdigest()


def read(environment: dict[int, Any], value: int | Literal) -> Any:
    """The value of a program's atom."""
    return value.val if isinstance(value, Literal) else environment[value]


def literal_value(atom: Any) -> float | None:
    """The value of a literal that is a real scalar, else None."""
    if isinstance(atom, Literal) and np.ndim(atom.val) == 0 and np.isrealobj(atom.val):
        return float(atom.val)
    return None


def subprograms(equation: Equation, **how: Any) -> Iterator[Program]:
    """The bodies of a higher-order equation (a loop, a conditional, a custom derivative), by `flatten`."""
    for value in equation.params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if hasattr(getattr(item, "jaxpr", item), "eqns"):
                yield flatten(item, **how)


def source_of(equation: Any) -> str | None:
    """Of a call to a `custom_jvp` or `custom_vjp` function: `name at file:line` of that function."""
    if equation.primitive not in CUSTOM_DERIVATIVES:
        return None
    body = equation.params["call_jaxpr"]
    return getattr(body, "jaxpr", body).debug_info.func_src_info


def source_of_function(target: Any) -> str:
    """The same, of what `jax.custom_jvp` or `jax.custom_vjp` returned.

    Raises:
        TypeError: it is not, or it is of an object without code of its own.
    """
    fun = target
    while not isinstance(fun, (jax.custom_jvp, jax.custom_vjp)):
        if not hasattr(fun, "__wrapped__"):
            raise TypeError(f"{target!r} is neither a primitive nor a function with a custom derivative")
        fun = fun.__wrapped__
    fun = inspect.unwrap(fun)
    while isinstance(fun, functools.partial):
        fun = inspect.unwrap(fun.func)
    if not hasattr(fun, "__code__"):
        raise TypeError(f"{fun!r} has no code that its calls could be known by: wrap it in a function")
    return f"{fun.__name__} at {fun.__code__.co_filename}:{fun.__code__.co_firstlineno}"


# --- tracing -----------------------------------------------------------------------------------------------


def trace(fun: Callable, *avals: Any, **how: Any) -> tuple[Program, list[Any], Any]:
    """Trace `fun` over `avals`: its program, the tracers and arrays it closes over, and the output tree.

    Everything that `fun` closes over, integers and keys too, becomes a leading input of the program. `how` is
    for `flatten`.
    """
    closed, out_shape = jax.make_jaxpr(fun, return_shape=True)(*avals)
    return flatten(closed, hoist=True, **how), list(closed.consts), jax.tree.structure(out_shape)


# --- flattening --------------------------------------------------------------------------------------------


def flatten(
    closed: Any,
    *,
    hoist: bool = False,
    merged: bool = True,
    inlined: Callable[[Any], bool] = lambda eqn: eqn.primitive in INLINED,
) -> Program:
    """Inline calls, and merge repeated equations if `merged`, of a closed jaxpr.

    With `hoist`, its constants become the first inputs; otherwise they are kept as constants. Which calls
    `inlined` says; those that mean more than their body stay.
    """
    build = _Builder(merged, inlined)
    jaxpr = getattr(closed, "jaxpr", closed)
    hoist = hoist or not hasattr(closed, "consts")  # an open jaxpr has none to keep
    consts = [build.new(v.aval) for v in jaxpr.constvars]
    inputs = [build.new(v.aval) for v in jaxpr.invars]
    outputs = build.inline(jaxpr, consts, inputs, source_info_util.new_name_stack())
    return Program(
        avals=tuple(build.avals),
        inputs=tuple(consts + inputs if hoist else inputs),
        constants=build.constants | ({} if hoist else dict(zip(consts, closed.consts, strict=True))),
        equations=tuple(build.equations),
        outputs=tuple(outputs),
    )


class _Builder:
    """Numbers values and collects equations while jaxprs are inlined into one another."""

    def __init__(self, merged, inlined):
        self.merged, self.inlined = merged, inlined
        self.avals, self.equations, self.constants, self.seen = [], [], {}, {}

    def new(self, aval) -> int:
        self.avals.append(aval)
        return len(self.avals) - 1

    def inline(self, jaxpr, consts, args, name_stack, calls=()):
        environment = dict(zip(jaxpr.constvars, consts, strict=True))
        environment.update(zip(jaxpr.invars, args, strict=True))
        look = lambda v: v if isinstance(v, Literal) else environment[v]
        for eqn in jaxpr.eqns:
            inputs = tuple(map(look, eqn.invars))
            stack = name_stack + eqn.source_info.name_stack
            body = _body_to_inline(eqn) if self.inlined(eqn) else None
            if body is None:
                outputs = self.add(eqn, inputs, eqn.source_info.replace(name_stack=stack), calls)
            else:
                inner = getattr(body, "jaxpr", body)
                held = [self.new(v.aval) for v in inner.constvars]
                self.constants.update(zip(held, getattr(body, "consts", ()), strict=True))
                outputs = self.inline(inner, held, inputs, stack, (*calls, eqn.source_info))
            environment.update(zip(eqn.outvars, outputs, strict=True))
        return [look(v) for v in jaxpr.outvars]

    def add(self, eqn, inputs, source, calls):
        rule = contains(eqn, {lax_p.custom_vjp_call_p})  # need not be linear: how often it runs matters
        merges = self.merged and not (_effects(eqn) or rule or _narrows(eqn))
        key = _equation_key(eqn, inputs) if merges else None
        if key is not None and key in self.seen:
            return self.seen[key]
        outputs = tuple(self.new(v.aval) for v in eqn.outvars)
        self.equations.append(
            Equation(
                primitive=eqn.primitive,
                params=eqn.params,
                inputs=inputs,
                outputs=outputs,
                in_avals=tuple(v.aval for v in eqn.invars),
                out_avals=tuple(v.aval for v in eqn.outvars),
                effects=_effects(eqn),
                axes=_axes(eqn),
                source=source,
                context=eqn.ctx,
                calls=calls,
            )
        )
        if key is not None:
            self.seen[key] = outputs
        return outputs


def contains(eqn: Any, primitives: Collection[Any]) -> bool:
    """Whether an equation, or one in its bodies, is of one of these primitives."""
    inner = (e for jaxpr in core.jaxprs_in_params(eqn.params) for e in jaxpr.eqns)
    return eqn.primitive in primitives or any(contains(e, primitives) for e in inner)


def _narrows(eqn) -> bool:
    """Whether it casts to fewer digits, in which the cotangents of all uses of the result would be added."""
    casts = eqn.primitive is lax_p.convert_element_type_p
    return casts and 0 < digits(eqn.outvars[0].aval) < digits(eqn.invars[0].aval)


def _effects(eqn) -> frozenset:
    return frozenset(e for e in eqn.effects if not isinstance(e, core.NamedAxisEffect))


def _axes(eqn) -> frozenset[Any]:
    axes = {e.name for e in eqn.effects if isinstance(e, core.NamedAxisEffect)}
    if eqn.primitive in _SILENT:
        axes.update(eqn.params["axis_name"])
    for inner in core.jaxprs_in_params(eqn.params):
        axes.update(*map(_axes, inner.eqns))
    return frozenset(axes).difference(eqn.params.get("manual_axes", ()))


def _body_to_inline(eqn):
    """The jaxpr of a call, or None if it means more than that (by effects, or a jit's shardings)."""
    if _effects(eqn):
        return None
    shardings = (*eqn.params.get("in_shardings", ()), *eqn.params.get("out_shardings", ()))
    if any(type(s).__name__ != "UnspecifiedValue" for s in shardings):
        return None
    return eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))


def _equation_key(eqn, inputs):
    params = tuple(sorted(eqn.params.items(), key=lambda item: item[0]))
    key = (eqn.primitive, params, eqn.ctx, tuple(map(_literal_key, inputs)))
    try:
        hash(key)
    except TypeError:  # a parameter that cannot be compared: leave the equation alone
        return None
    return key


def _literal_key(value):
    if not isinstance(value, Literal):
        return value
    return (str(value.aval), np.asarray(value.val).tobytes() if np.ndim(value.val) == 0 else id(value.val))


def named_axes() -> dict[str, int]:
    """The sizes of the mapped axes that have a name here."""
    return dict(core.get_axis_env().axis_sizes)


def naming_axes(sizes: dict[str, int]) -> contextlib.AbstractContextManager:
    """A context in which these axes have a name too."""
    return core.extend_axis_env_nd(list(sizes.items()))


def aval_of(program: Program, value: int | Literal) -> Any:
    """The type of a program's atom."""
    return value.aval if isinstance(value, Literal) else program.avals[value]
