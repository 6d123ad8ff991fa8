"""Do the numbers of equations survive lowering and compilation, and change nothing else?"""

import jax
import jax.numpy as jnp
from jax.extend.core import jaxpr_as_fun

from bwsk_jax.coordination.equations import describe_equations
from bwsk_jax.coordination.numbering import number_equations, number_in
from tests.support.tiny import CONFIG, params, tokens


def layered(x):
    body = lambda x, _: (jax.lax.cond(x.sum() > 0, jnp.sin, jnp.cos, jnp.tanh(x)), None)
    return jax.lax.scan(body, x, length=2)[0] + jax.jit(jnp.exp)(x)


def test_every_equation_has_a_number_of_its_own_and_knows_its_parent():
    numbered = number_equations(jax.make_jaxpr(layered)(jnp.ones(3)))
    names = [str(equation.primitive) for equation in numbered.equations]
    assert {"scan", "cond", "sin", "cos", "tanh", "exp", "jit"} <= set(names)
    parents = [None if parent is None else names[parent] for parent in numbered.parents]
    assert parents[names.index("scan")] is None
    assert parents[names.index("tanh")] == "scan"
    assert parents[names.index("sin")] in ("cond", "jit")
    assert numbered.trips(names.index("scan")) == 2
    assert numbered.trips(names.index("tanh")) == numbered.trips(None) == 1


def test_numbers_survive_compilation():
    numbered = number_equations(jax.make_jaxpr(lambda x: jnp.sort(jnp.cumsum(x)))(jnp.ones(8)))
    text = jax.jit(jaxpr_as_fun(numbered.closed)).lower(jnp.ones(8)).compile().as_text()
    names = [str(equation.primitive) for equation in numbered.equations]
    assert f"equation{names.index('sort')}()" in text


def test_the_function_computes_what_it_did():
    x = jnp.linspace(-1.0, 1.0, 5)
    closed = jax.make_jaxpr(layered)(x)
    (result,) = jaxpr_as_fun(number_equations(closed).closed)(x)
    assert (result == layered(x)).all()


def test_a_name_may_have_no_number_or_several():
    assert number_in("jit(f)/dot_general") is None
    assert number_in("jit(f)/Layer/equation3()/attention/equation14()/add") == 14


def test_equations_are_described_as_classify_does():
    from bwsk_jax import bert, classify

    step = jax.grad(lambda params, ids: bert.encode(CONFIG, params, ids).sum())
    args = params(), tokens(2, 8)
    described = describe_equations(number_equations(jax.make_jaxpr(step)(*args))).values()
    unique = {id(each): each for each in described}.values()
    found = sorted((each.primitive, each.kind, each.module) for each in unique)
    lines = classify(step, *args).lines
    assert found == sorted((line.primitive, line.kind, line.module) for line in lines)
