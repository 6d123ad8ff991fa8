"""Say of every equation of a function whether it preserves information or erases it, and why.

The engine saves memory by inverting: it solves an equation for its operand instead of saving or replaying
that operand. Whether an equation can be inverted at all is a property of the function, and this package
reports it. It stands beside the engine, whose table of inverses it reads. The engine never imports it.

**Kinds.** An equation is *S* if an operand can be solved for, given its results and its other operands, as in
`z = x + y`. It is *~S* if the operand comes back only up to a narrower type, as from a cast to bfloat16. It
is *K* if it erases: two operands have one result, as in a sum over an axis. *B* marks a loop, conditional or
call, which is the composition of the equations inside it. An *S-phase* is a maximal run of S and ~S equations
between K ones. A backward pass may walk through it from its end to its beginning, and the report says which
residuals of plain autodiff that gives back.

The letters are those of the combinators. B f g x = f (g x) hands a value on, W f x = f x x uses it twice,
S f g x = f x (g x) is what an inverse with side information undoes, and K x y = x drops. So a report also
counts the values that have one reader (B), several (W) or none (K).

>>> import bwsk_jax, jax, jax.numpy as jnp
>>> def layer(x, w, b):
...     return jnp.maximum(jnp.exp(x @ w) + b, 0)
>>> x, w = jax.ShapeDtypeStruct((4, 8), jnp.float32), jax.ShapeDtypeStruct((8, 8), jnp.float32)
>>> b = jax.ShapeDtypeStruct((4, 8), jnp.float32)
>>> report = bwsk_jax.classify(layer, x, w, b, wrt=0)
>>> for line in report.lines:
...     print(line.kind, line.primitive, "|", line.why)
S dot_general | operand 0 from the result and operand 1
S exp | operand 0 from the result
S add | operand 0 from the result and operand 1
K max | the other operand is dropped
>>> [phase.lines for phase in report.phases]
[(0, 1, 2)]

**Files.** Each imports only the engine and the files above it.

================== =========================================================================================
report.py          what comes out: `Line`, `Phase`, `Module` and `Report`, as data, as text and as JSON
functions.py       functions of several equations that preserve as a whole, such as softplus
values.py          what is known of a value: its role (parameter or data), size, origin and bounds
costly_inverses/   inverses that show an equation to be S, and that no gradient would pay for
erasure.py         the table of what erases and why
equations.py       the strict verdict on one equation
reference.py       what the PyTorch reference takes to erase
bodies.py          the programs inside loops, conditionals and calls, which a report descends into
phases.py          S-phases, and which residuals their inverses give back
modules.py         which equations a module of Linen, NNX or Equinox has, and whether it preserves
classify.py        the walk over all equations that makes the report: the public function
================== =========================================================================================
"""
