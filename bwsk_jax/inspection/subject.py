"""What is looked at: BERT as it is trained, or any function."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax

import bwsk_jax
from bwsk_jax import bert
from bwsk_jax.engine.program.jaxprs import trace
from bwsk_jax.engine.program.vjp import trace_vjp
from bwsk_jax.inspection.arguments import SubjectError, described, import_function, parse_types

__all__ = ["Subject", "subject_of_bert", "subject_of_function"]


@dataclass(frozen=True)
class Subject:
    """How to classify and how to plan something.

    Attributes:
      name: what it is, with its sizes.
      unit: what a plan is for.
      classify: takes `taxonomy`.
      plan: takes `max_overhead` and `max_bytes`.
      frontier: takes `invert`.
    """

    name: str
    unit: str
    classify: Callable[..., bwsk_jax.Report]
    plan: Callable[..., bwsk_jax.Plan]
    frontier: Callable[..., list[bwsk_jax.Plan]]


def subject_of_bert(name: str, config: bert.BertConfig, batch_size: int, seq_len: int, dtype: Any) -> Subject:
    """BERT's training; the plan is one layer's."""
    layer = bert.abstract_layer(config, batch_size, seq_len, dtype)
    length = config.num_hidden_layers
    return Subject(
        name=f"{name} in training: logits of {batch_size} x {seq_len} tokens, {dtype.__name__}",
        unit=f"one of {length} layers",
        classify=functools.partial(bert.classify_training, config, batch_size, seq_len, dtype),
        plan=functools.partial(bwsk_jax.plan_scan, *layer, length=length),
        frontier=functools.partial(bwsk_jax.frontier, *layer, length=length),
    )


def subject_of_function(path: str, types: str, wrt: Sequence[int] | None) -> Subject:
    """A function `package.module:name` of arrays; `wrt` are the arguments followed, all unless told.

    Raises:
        SubjectError: there is no such function, it does not take these types, or `wrt` names no argument.
    """
    fun, args = import_function(path), parse_types(types)
    if wrt is not None and not all(0 <= number < len(args) for number in wrt):
        raise SubjectError(f"--wrt {' '.join(map(str, wrt))}: there are {len(args)} arguments, from 0")
    try:
        jax.eval_shape(fun, *args)
    except (Exception, SystemExit) as error:  # a function may fail in any way
        raise SubjectError(f"{path} cannot be traced with --args {types!r}: {described(error)}") from error
    # A call is one iteration of a scan that carries nothing.
    iteration = lambda carry, args: (carry, fun(*args))
    return Subject(
        name=f"{path}({', '.join(types.split())})",
        unit="one call",
        classify=functools.partial(bwsk_jax.classify, fun, *args, wrt=wrt),
        plan=_if_differentiable(path, fun, args, functools.partial(bwsk_jax.plan, fun, *args)),
        frontier=_if_differentiable(
            path, fun, args, functools.partial(bwsk_jax.frontier, iteration, (), tuple(args))
        ),
    )


def _if_differentiable(path: str, fun: Callable, args: list[Any], planner: Callable) -> Callable:
    def planned(**limits: Any) -> Any:
        try:
            trace_vjp(trace(fun, *args)[0]).trace_pullback()
        except Exception as error:  # JAX has many ways to say that a rule is missing, and users their own
            raise SubjectError(f"{path} cannot be differentiated: {described(error)}") from error
        return planner(**limits)

    return planned
