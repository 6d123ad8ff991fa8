"""Gradients of any JAX function whose backward pass saves, replays or inverts each value, by plan.

The engine is pure JAX: it knows no model, no framework and nothing of the package outside itself. It has four
rooms, and a file imports only from its own room and from earlier ones.

`program`: what is differentiated. `jaxprs` traces a function into a `Program`, flat equations over numbered
values, and is the only file that reaches into JAX's internals. `vjp` traces a function together with its
derivative into a `VjpTrace`, by JAX's own autodiff; its residuals are what a backward pass reads. `scan_body`
does the same for one iteration of a scan, without what `hoisting` computes once before it, and `types` says
what a value's type tells. `bits` and `narrow` say in which form booleans and narrow floats are kept. `eager`
remembers what was made of a function, for its next call. `arguments` says what of a call is traced, and
`lifting` which modules of frameworks need a sibling of `bwsk_jax.frameworks`.

`rules`: what is known of primitives, as tables. `inverses` says which operands can be solved for, `registry`
adds the inverses of users, `exactness` says how far a recovered value can be trusted and what may read it,
`intervals` bounds values before they are computed, and `costs` prices equations.

`plan`: what to save and how to have the rest. `problem` makes a `Problem` of a traced derivative: the values
that are available, those that are needed, and every step from one to another. `schedules` puts steps in an
order and follows inexactness through them, `milp` writes the choice as an integer program, `solver` finds a
`Plan`, `plan` defines, checks and stores it, `fingerprint` says which problem it is for, and `api` has what
users call.

`execute`: running a plan. `steps` runs steps, `guard` decides whether the data allow the inverses that depend
on them, and `recover` runs a whole plan. `drift` notices a carry that was lost, and `spoiling` makes
gradients NaN then. `reversible` and `reversible_scan` (in `segments`, where carries are kept) have all of
this run by JAX's autodiff through `own_derivative`, which also keeps collectives working under `jax.vmap` and
refuses forward-mode derivatives.

So five things are handed on: Program -> VjpTrace -> Problem -> Plan -> recovered values. Here is the way by
hand that `bwsk_jax.reversible` takes, for a function whose residuals are the cosine of `exp(x)` and `exp(x)`:

>>> import jax, jax.numpy as jnp
>>> from bwsk_jax.engine.execute.recover import recover
>>> from bwsk_jax.engine.plan.plan import Limit
>>> from bwsk_jax.engine.plan.problem import call_problem
>>> from bwsk_jax.engine.plan.solver import solve
>>> from bwsk_jax.engine.program.jaxprs import trace
>>> from bwsk_jax.engine.program.vjp import trace_vjp
>>> x = jnp.linspace(0.0, 1.0, 5)
>>> program, _, _ = trace(lambda x: jnp.sin(jnp.exp(x)), x)
>>> [str(equation.primitive) for equation in program.equations]
['exp', 'sin']
>>> vjp = trace_vjp(program)
>>> len(vjp.residuals)
2
>>> plan = solve([call_problem(vjp)], Limit(max_overhead=float("inf")))
>>> plan.saved, [str(plan.problem.program.equations[step.equation].primitive) for step in plan.steps]
((), ['exp', 'cos'])
>>> recovered = recover(plan, dict(zip(vjp.program.inputs, [x])))
>>> (gradient,) = vjp.pullback([recovered[value] for value in vjp.residuals])([jnp.ones(5)])
>>> bool(jnp.allclose(gradient, jnp.cos(jnp.exp(x)) * jnp.exp(x)))
True
"""
