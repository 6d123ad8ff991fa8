"""Trace a function and its VJP into one flat program of numbered values.

The only file that knows how the installed JAX spells its jaxprs. Everything behind it works on
`Program`: equations over integers, call-like equations inlined, equal equations on equal inputs merged.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import inspect
import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax._src import core
from jax._src.lax import lax as lax_internal
from jax._src.lax import parallel
from jax.extend import source_info_util
from jax.extend.core import Literal
from jax.extend.core import primitives as lax_p

__all__ = [
    "Equation",
    "Program",
    "VjpTrace",
    "aval_of",
    "is_differentiable",
    "is_key",
    "is_real",
    "kept_by_autodiff",
    "literal_value",
    "merge",
    "named_axes",
    "naming_axes",
    "nbytes",
    "present",
    "read",
    "size",
    "slice_type",
    "source_of",
    "source_of_function",
    "split",
    "stacked_type",
    "strong",
    "subprograms",
    "trace",
    "trace_vjp",
    "type_of",
    "typed_as",
    "varying_axes",
]

INLINED = frozenset({lax_p.jit_p, lax_p.closed_call_p, lax_p.remat_p})
"""Calls that mean no more than their body."""
_JAX_FOLDER = os.path.dirname(jax.__file__)
CUSTOM_DERIVATIVES = frozenset({lax_p.custom_jvp_call_p, lax_p.custom_vjp_call_p})


def present(*names: str) -> tuple[Any, ...]:
    """The primitives of these names that the installed JAX has, exported or not."""
    homes = (lax_p, core, parallel, lax_internal)
    return tuple(
        next(getattr(h, n) for h in homes if hasattr(h, n))
        for n in names
        if any(hasattr(h, n) for h in homes)
    )


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
    axes: frozenset[str]
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
    path, line = [], None
    for frame in reversed(source.traceback.frames if source.traceback else ()):
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

    def evaluate(self, inputs: Sequence[Any], outputs: Sequence[int | Literal]) -> list[Any]:
        """Values of `outputs` for the given inputs."""
        environment = dict(self.constants)
        environment.update(zip(self.inputs, inputs, strict=True))
        for equation in self.needed(outputs):
            results = equation.bind([read(environment, v) for v in equation.inputs])
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


def nbytes(aval: Any) -> int:
    """Bytes that a value of this type occupies; a key counts its words, a token has none."""
    return size(aval) * aval.dtype.itemsize if hasattr(aval, "dtype") else 0


def size(aval: Any) -> int:
    """How many elements a value of this type has; a token has none."""
    return math.prod(aval.shape) if hasattr(aval, "shape") else 0


def is_differentiable(aval: Any) -> bool:
    """Whether a value of this type has a cotangent: real and complex floats do."""
    return hasattr(aval, "dtype") and jax.numpy.issubdtype(aval.dtype, jax.numpy.inexact)


def is_key(aval: Any) -> bool:
    """Whether a value of this type is a key for random numbers."""
    return hasattr(aval, "dtype") and jax.dtypes.issubdtype(aval.dtype, jax.dtypes.prng_key)


def is_real(aval: Any) -> bool:
    """Whether a value of this type is a real float."""
    return hasattr(aval, "dtype") and jax.numpy.issubdtype(aval.dtype, jax.numpy.floating)


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


@dataclasses.dataclass(frozen=True, eq=False)
class VjpTrace:
    """A function and its VJP as one program, by JAX's own autodiff.

    `program.outputs` are the primal outputs followed by the residuals: the leaves of the function that
    `jax.vjp` returns. `pullback(residuals)` is that function; it takes the cotangents of the
    differentiable outputs and returns those of the differentiable inputs.
    """

    program: Program
    num_outputs: int
    vjp_tree: Any
    differentiable_inputs: tuple[bool, ...]
    differentiable_outputs: tuple[bool, ...]

    @property
    def outputs(self) -> tuple[int | Literal, ...]:
        """The primal outputs."""
        return self.program.outputs[: self.num_outputs]

    @property
    def residuals(self) -> tuple[int | Literal, ...]:
        """What the backward pass reads."""
        return self.program.outputs[self.num_outputs :]

    def pullback(self, residuals: Sequence[Any]) -> Callable:
        """The VJP function made whole again."""
        return jax.tree.unflatten(self.vjp_tree, residuals)

    def trace_pullback(self) -> Program:
        """What the backward pass computes; its first inputs are the residuals."""
        residuals = [strong(aval_of(self.program, v)) for v in self.residuals]
        outputs, _ = split(self.differentiable_outputs, self.outputs)
        cotangents = [strong(aval_of(self.program, v)).to_ct_aval() for v in outputs]
        return flatten(jax.make_jaxpr(lambda r, ct: self.pullback(r)(ct))(residuals, cotangents))


def trace_vjp(program: Program) -> VjpTrace:
    """Differentiate a program with respect to all its differentiable inputs and trace the result."""
    avals = [program.avals[v] for v in program.inputs]
    differentiable = tuple(map(is_differentiable, avals))
    out_differentiable = tuple(is_differentiable(aval_of(program, v)) for v in program.outputs)
    vjp_tree = None

    def forward(*args):
        nonlocal vjp_tree

        def fun(*varied):
            outputs = program.evaluate(merge(differentiable, varied, fixed), program.outputs)
            return split(out_differentiable, outputs)

        varied, fixed = split(differentiable, args)
        out, vjp, aux = jax.vjp(fun, *varied, has_aux=True)
        residuals, vjp_tree = jax.tree.flatten(vjp)
        return merge(out_differentiable, out, aux), residuals

    closed = jax.make_jaxpr(forward)(*map(strong, avals))
    return VjpTrace(flatten(closed), len(program.outputs), vjp_tree, differentiable, out_differentiable)


def kept_by_autodiff(program: Program, like: Program) -> frozenset[int] | None:
    """The values of `like` that reverse-mode autodiff of `program` keeps; None where there is no derivative.

    Both compute the same function of the same inputs, but `like` may have had its custom derivatives inlined.
    """
    avals = [program.avals[v] for v in program.inputs]
    differentiable = tuple(map(is_differentiable, avals))
    inner = [v for equation in like.equations for v in equation.outputs]

    def forward(*args):
        varied, fixed = split(differentiable, args)

        def fun(*varied):
            outputs = program.evaluate(merge(differentiable, varied, fixed), program.outputs)
            return [x for x in outputs if is_differentiable(jax.typeof(x))]

        outputs, vjp = jax.vjp(fun, *varied)
        vjp(jax.tree.map(jax.numpy.zeros_like, outputs))  # some derivatives turn out to be missing only here
        return like.evaluate(args, inner), jax.tree.leaves(vjp)

    try:
        closed = jax.make_jaxpr(forward)(*map(strong, avals))
    except Exception:  # a rule is missing, an axis has no name, or a user's own rule fails in its own way
        return None
    merged = flatten(closed)
    kept = frozenset(v for v in merged.outputs[len(inner) :] if not isinstance(v, Literal))
    number = dict(zip(like.inputs, merged.inputs, strict=True)) | dict(
        zip(inner, merged.outputs, strict=False)
    )
    return frozenset(v for v, n in number.items() if not isinstance(n, Literal) and n in kept)


def split(mask: Sequence[bool], items: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """The items where the mask holds, and the others."""
    pairs = list(zip(mask, items, strict=True))
    return [x for m, x in pairs if m], [x for m, x in pairs if not m]


def merge(mask: Sequence[bool], chosen: Sequence[Any], others: Sequence[Any]) -> list[Any]:
    """Undo `split`."""
    chosen, others = iter(chosen), iter(others)
    return [next(chosen) if m else next(others) for m in mask]


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
        key = _equation_key(eqn, inputs) if self.merged and not _effects(eqn) else None
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


def _effects(eqn) -> frozenset:
    return frozenset(e for e in eqn.effects if not isinstance(e, core.NamedAxisEffect))


def _axes(eqn) -> frozenset[str]:
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


def type_of(x: Any) -> Any:
    """The type of an array, Python scalar or `jax.ShapeDtypeStruct`, with how it is spread over devices."""
    return core.shaped_abstractify(x)


def typed_as(x: Any, aval: Any) -> Any:
    """An array as the type that it promotes to or from: of that width and weakness."""
    own = type_of(x)
    if (own.dtype, own.weak_type) == (aval.dtype, aval.weak_type):
        return x
    return lax_p.convert_element_type_p.bind(x, new_dtype=aval.dtype, weak_type=aval.weak_type, sharding=None)


def strong(aval: Any) -> Any:
    """The same type without the weakness of a Python scalar's."""
    return aval.update(weak_type=False)


def slice_type(aval: Any) -> Any:
    """What a scan sees of an array of this type in one iteration."""
    return core.mapped_aval(aval.shape[0], 0, aval)


def stacked_type(aval: Any) -> Any:
    """One value of this type, to scan over."""
    return core.unmapped_aval(1, 0, aval)


def named_axes() -> dict[str, int]:
    """The sizes of the mapped axes that have a name here."""
    return dict(core.get_axis_env().axis_sizes)


def naming_axes(sizes: dict[str, int]) -> contextlib.AbstractContextManager:
    """A context in which these axes have a name too."""
    return core.extend_axis_env_nd(list(sizes.items()))


def varying_axes(x: Any) -> frozenset[str]:
    """The mapped axes along which an array differs."""
    return jax.typeof(x).manual_axis_type.varying


def aval_of(program: Program, value: int | Literal) -> Any:
    """The type of a program's atom."""
    return value.aval if isinstance(value, Literal) else program.avals[value]
