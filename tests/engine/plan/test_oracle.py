"""Plans against all the plans that there are, by a search and a definition of exactness of its own."""

import heapq
import itertools
import math

import jax
import jax.numpy as jnp
import pytest

from bwsk_jax.engine.plan import solver
from bwsk_jax.engine.plan.plan import Limit, PlanError
from bwsk_jax.engine.plan.problem import scan_problem
from bwsk_jax.engine.plan.solver import solve
from bwsk_jax.engine.program.scan_body import trace_iteration
from bwsk_jax.engine.rules.exactness import Grade, Taint

INF = math.inf
struct = lambda *shape, dtype=jnp.float32: jax.ShapeDtypeStruct(shape, dtype)
HALF, SQUARE = struct(4, 8), struct(8, 8)

# --- the definition of exactness -------------------------------------------------------------------------

COMPARES = {"eq": (0, 1), "gt": (0, 1)}
"""Operands of which any error, however small and wherever it comes from, may tip a tie."""
DIVIDES = {"div": (1,)}
"""Operands that are exactly 0 only where no sum over many elements lies before them."""
HANDS_ON = {"sin", "cos", "tanh", "exp", "add", "sub", "mul", "max", "div", "convert_element_type"}
HANDS_ON |= {"select_n", "broadcast_in_dim", "slice", "eq", "gt", "one_minus_square"}
"""Primitives whose elements each come from one element of each operand."""
MIXES = {"dot_general", "reduce_sum"}
"""Primitives whose elements each come from many."""


def errors_after(problem, step, inexact, unmixed, narrowed):
    """The same three sets of values after one more step, or None where it may not run."""
    program = problem.program
    equation = program.equations[step.equation]
    name = str(equation.primitive)
    assert name in HANDS_ON | MIXES, f"the oracle does not know {name}"
    values_at = lambda places: {equation.inputs[k] for k in places if isinstance(equation.inputs[k], int)}
    compared, divided = values_at(COMPARES.get(name, ())), values_at(DIVIDES.get(name, ()))
    if not step.inverts and (compared & inexact or (compared | divided) & (unmixed | narrowed)):
        return None
    width = lambda v: program.avals[v].dtype.itemsize * jnp.issubdtype(program.avals[v].dtype, jnp.inexact)
    floats = [v for v in step.writes if width(v)]
    rounds = step.inverts and step.grade is not Grade.EXACT
    mixes = name in MIXES and not step.inverts
    now_inexact = {v for v in floats if rounds or inexact.intersection(step.reads)}
    now_unmixed = {v for v in floats if rounds or (not mixes and unmixed.intersection(step.reads))}
    now_narrowed = {
        v
        for v in floats
        if step.grade is Grade.NARROWED or any(r in narrowed and width(r) <= width(v) for r in step.reads)
    }
    now = {Taint.INEXACT: now_inexact, Taint.UNMIXED: now_unmixed, Taint.LOW_PRECISION: now_narrowed}
    if any(values & problem.forbidden[taint] for taint, values in now.items()):
        return None
    return inexact | now_inexact, unmixed | now_unmixed, narrowed | now_narrowed


# --- the search --------------------------------------------------------------------------------------------


def subsets(values):
    values = sorted(values)
    return [frozenset(c) for n in range(len(values) + 1) for c in itertools.combinations(values, n)]


def cheapest(problem, saved, careful):
    """The least cost of deriving all targets from the saved values, over every order of every set of steps.

    Who is careful takes no step that needs a guard, and otherwise as few inexact ones as possible. Which
    leaves of the carry come in inexact is guessed first, in every way. Then what goes out may not be
    more inexact than that.
    """
    leaves = frozenset(a for a, _ in problem.recurrence)
    guesses = [
        (inexact, unmixed, narrowed)
        for inexact in subsets(leaves)
        for unmixed in subsets(inexact)
        for narrowed in subsets(inexact)
    ]
    kinds = (Taint.INEXACT, Taint.UNMIXED, Taint.LOW_PRECISION)
    allowed = (
        guess
        for guess in guesses
        if not any(values & problem.forbidden[kind] for kind, values in zip(kinds, guess, strict=True))
    )
    return min((cheapest_from(problem, saved, guess, careful) for guess in allowed), default=NEVER)[-1]


NEVER = (math.inf, INF)


def cheapest_from(problem, saved, guess, careful):
    """The same for one guess, after the number of inexact steps that count.

    It is Dijkstra's algorithm over what is known and how exactly.
    """
    targets = set(problem.targets)
    start = (frozenset(problem.available.union(saved)), *guess)
    queue, best, tick = [((0, 0.0), 0, start)], {start: (0, 0.0)}, itertools.count(1)
    while queue:
        cost, _, state = heapq.heappop(queue)
        known, *tainted = state
        closed = all(
            a in values or b not in found
            for values, found in zip(guess, tainted, strict=True)
            for a, b in problem.recurrence
        )
        if targets <= known and closed:
            return cost
        if cost > best[state]:
            continue
        for step in (*problem.steps, *problem.free_steps.values()):
            if (
                not known.issuperset(step.reads)
                or known.issuperset(step.writes)
                or (step.grade is Grade.GUARDED and careful)
            ):
                continue
            errors = errors_after(problem, step, *tainted)
            if errors is None:
                continue
            after = (known.union(step.writes), *errors)
            total = (cost[0] + (careful and not step.exact), cost[1] + step.cost)
            if total < best.get(after, NEVER):
                best[after] = total
                heapq.heappush(queue, (total, next(tick), after))
    return NEVER


def brute_force(problem, limit, careful):
    """The least objective over all sets of saved values."""
    at_hand = problem.at_hand
    values = sorted(set(problem.targets).union(*((*s.reads, *s.writes) for s in problem.steps)) - at_hand)
    assert len(values) <= 12, f"{len(values)} values are too many to enumerate"
    weight_bytes, weight_overhead = limit.weights
    least = INF
    for size in range(len(values) + 1):
        for saved in itertools.combinations(values, size):
            total = sum(problem.bytes[v] for v in saved)
            floor = weight_bytes * total / max(problem.residual_bytes, 1)
            if floor >= least or (limit.max_bytes is not None and total > limit.max_bytes):
                continue
            overhead = cheapest(problem, saved, careful) / max(3 * problem.forward_cost, 1.0)
            if overhead < INF and (limit.max_overhead is None or overhead <= limit.max_overhead + 1e-9):
                least = min(least, floor + weight_overhead * overhead)
    return least


def objective(plan, limit):
    weight_bytes, weight_overhead = limit.weights
    return weight_bytes * plan.saved_bytes / max(plan.residual_bytes, 1) + weight_overhead * plan.overhead


SMALL = {
    "sum of two": (lambda c, w: (c + jnp.sin(w), jnp.sin(c)), HALF, HALF),
    "affine": (lambda c, w: (jnp.tanh(c) * w + c.sum(), None), struct(4, 4), struct(4, 4)),
    "dot and tanh": (lambda c, w: (jnp.tanh(c @ w), None), HALF, SQUARE),
    "recovered branch": (lambda c, w: (jnp.tanh(c @ w) + w.sum(), None), HALF, SQUARE),
    "cast": (
        lambda c, w: (jnp.sin(c.astype(jnp.bfloat16) * w).astype(jnp.float32), None),
        HALF,
        struct(4, 8, dtype=jnp.bfloat16),
    ),
    "compared": (lambda c, w: (jnp.maximum(c, 0) + w, None), HALF, HALF),
    "guarded": (lambda c, w: (jnp.exp(c @ w), None), HALF, SQUARE),
    "couple": (lambda c, w: ((c[1], c[0] + jnp.exp(c[1] * w)), None), (HALF, HALF), HALF),
    "wide output": (lambda c, w: (c[:, :4] @ w, jnp.exp(c)), HALF, struct(4, 8)),
}


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(
    "limit", [Limit(0.0), Limit(0.05), Limit(INF), Limit(None, 200), Limit(None, 300)], ids=str
)
def test_the_plan_is_as_good_as_the_best_of_all_plans(name, limit):
    """To the margins by which inverses and guards have to win."""
    found = scan_problem(trace_iteration(*SMALL[name]))
    best = brute_force(found, limit, careful=True)
    if best == INF:
        with pytest.raises(PlanError):
            solve([found], limit)
        return
    plan = solve([found], limit)
    margin = limit.weights[1] * (solver.MARGIN if plan.fallback is None else 0.0)
    assert objective(plan, limit) <= best + margin + 1e-6
    assert objective(plan, limit) >= brute_force(found, limit, careful=False) - 1e-6
    assert plan.gap == 0.0
