"""`reversible` takes what `jax.checkpoint` takes and decorates what it decorates, or says why not."""

import functools
import math
import traceback

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bwsk_jax

X = jax.random.normal(jax.random.key(0), (4, 8))
W = 0.3 * jax.random.normal(jax.random.key(1), (8, 8))


def block(x, w, power=1, *, train=False, activation=jnp.tanh):
    h = activation(x @ w)
    for _ in range(power):
        h = jnp.sin(h) * x
    return jnp.where(h > 0, h, 0.0) if train else h


def assert_same_gradient(ours, plain, *args, **kwargs):
    loss = lambda fun: lambda *args: (fun(*args, **kwargs) ** 2).sum()
    found, expected = (jax.jit(jax.grad(loss(fun)))(*args) for fun in (ours, plain))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


# --- decorators --------------------------------------------------------------------------------------------


def test_it_decorates_with_and_without_arguments():
    @bwsk_jax.reversible
    def bare(x):
        return jnp.tanh(x @ W)

    @bwsk_jax.reversible(max_overhead=math.inf)
    def limited(x):
        """Of x."""
        return jnp.tanh(x @ W)

    for ours in (bare, limited):
        assert_same_gradient(ours, lambda x: jnp.tanh(x @ W), X)
    assert (limited.__name__, limited.__doc__) == ("limited", "Of x.")


def test_mistakes_in_a_decorator_are_told_where_it_stands():
    with pytest.raises(ValueError, match="give max_overhead or max_bytes, not both"):
        bwsk_jax.reversible(max_overhead=0.1, max_bytes=3)


class Layer(eqx.Module):
    weight: jax.Array
    activation: object = jnp.tanh

    @bwsk_jax.reversible
    def __call__(self, x):
        return self.activation(x @ self.weight)


class Plain:
    scale = 2.0

    @bwsk_jax.reversible(static_argnames="power")
    def __call__(self, x, power):
        return jnp.sin(x * self.scale) ** power


def test_it_decorates_methods():
    found = eqx.filter_grad(lambda layer, x: (layer(x) ** 2).sum())(Layer(W), X)
    expected = jax.grad(lambda w: (jnp.tanh(X @ w) ** 2).sum())(W)
    np.testing.assert_allclose(found.weight, expected, rtol=1e-5)
    assert_same_gradient(functools.partial(Plain(), power=3), lambda x: jnp.sin(2 * x) ** 3, X)


# --- what is not traced ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "static",
    [
        {"static_argnums": 2, "static_argnames": "train"},
        {"static_argnums": (2, -2)},
        {"static_argnames": ("power", "train")},
    ],
    ids=str,
)
@pytest.mark.parametrize("by_policy", [False, True])
def test_static_arguments_decide(static, by_policy):
    plan = {"plan": jax.checkpoint_policies.dots_saveable} if by_policy else {}
    ours = bwsk_jax.reversible(block, **static, **plan)
    for options in ({"power": 1, "train": True}, {"power": 3, "train": False}):
        plain = functools.partial(block, **options)
        assert_same_gradient(functools.partial(ours, **options), plain, X, W)
        power, train = options.values()
        assert_same_gradient(lambda x, w, p=power, t=train: ours(x, w, p, train=t), plain, X, W)


def test_static_arguments_may_be_among_any_number_of_others():
    def scaled(x, *rest, power=1, **options):
        return rest[0] * jnp.sin(x) ** power * (2 if options["train"] else 1)

    static = {"static_argnums": (2, -1), "static_argnames": ("power", "train")}
    ours = bwsk_jax.reversible(scaled, **static)
    assert_same_gradient(
        lambda x, w: ours(x, w, "a", power=3, train=True),
        lambda x, w: scaled(x, w, "a", power=3, train=True),
        X,
        X,
    )


def test_a_traced_decision_gets_a_hint():
    with pytest.raises(jax.errors.ConcretizationTypeError) as raised:
        bwsk_jax.reversible(block)(X, W, train=True)
    said = "".join(traceback.format_exception_only(raised.value))
    assert "such as train=True, in static_argnums or static_argnames" in said.replace("\n", " ")


def test_functions_among_the_leaves_are_static():
    ours = bwsk_jax.reversible(
        lambda leaves: leaves["f"](leaves["x"] @ leaves["w"], leaves["name"] == "double")
    )
    f = lambda y, twice: jnp.sin(y) * (2 if twice else 1)
    for name in ("double", "single"):
        plain = lambda x, w, name=name: f(x @ w, name == "double")
        assert_same_gradient(lambda x, w, n=name: ours({"x": x, "w": w, "f": f, "name": n}), plain, X, W)


def test_modules_of_equinox_are_arguments_as_they_are():
    model = eqx.nn.MLP(8, 8, 16, 2, key=jax.random.key(2))
    call = lambda model, x: jax.vmap(model)(x)
    loss = lambda run: eqx.filter_grad(lambda model, x: (run(model, x) ** 2).sum())(model, X)
    ours, plain = loss(bwsk_jax.reversible(call)), loss(call)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert bwsk_jax.plan(call, model, X).residual_bytes > 0


def test_static_values_that_are_equal_but_of_different_types_are_not_the_same():
    times = bwsk_jax.reversible(lambda x, n: x * n, static_argnums=1)
    found = [times(jnp.arange(3), n).dtype for n in (1, 1.0, True)]
    assert found == [jnp.int32, jnp.float32, jnp.int32]


def test_a_function_is_traced_once_for_the_same_static_values():
    traced = []

    @bwsk_jax.reversible(static_argnums=1)
    def counting(x, power):
        traced.append(power)
        return jnp.sin(x) ** power

    for power in (2, 2, 3, 2, 3):
        jax.grad(lambda x, p=power: counting(x, p).sum())(X)
    assert traced == [2, 3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"static_argnames": "trian"}, "static_argnames has 'trian', but the parameters are x, w, power"),
        ({"static_argnums": 7}, "static_argnums has 7, but there are 5 parameters"),
    ],
)
def test_static_arguments_that_are_not_there_are_told(options, message):
    with pytest.raises(ValueError, match=message):
        bwsk_jax.reversible(block, **options)


def test_a_static_argument_must_be_hashable():
    with pytest.raises(TypeError, match="a static argument must be hashable, got list"):
        bwsk_jax.reversible(block, static_argnames="power")(X, W, [1])


# --- what has no counterpart -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["policy", "prevent_cse", "concrete"])
def test_arguments_of_checkpoint_without_a_counterpart_are_refused_with_a_reason(name):
    with pytest.raises(TypeError, match=rf"reversible\(\) does not take {name}: (?!there is no such)"):
        bwsk_jax.reversible(block, **{name: None})


def inner(policy):
    f = jax.checkpoint(lambda x: jnp.sin(jnp.exp(x)), policy=policy)
    return lambda x: jax.jit(f)(x).sum()


ENTRIES = {
    "call": lambda f: bwsk_jax.reversible(f)(X),
    "plan": lambda f: bwsk_jax.plan(f, X),
    "scan": lambda f: bwsk_jax.reversible_scan(lambda c, _: (c * f(c), None), X, None, 3),
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_policy_inside_is_refused_with_a_reason(entry):
    with pytest.raises(
        TypeError, match=r"a jax.checkpoint inside has a policy, .* save_names or replay_names"
    ):
        ENTRIES[entry](inner(jax.checkpoint_policies.everything_saveable))


@pytest.mark.parametrize("policy", [None, jax.checkpoint_policies.nothing_saveable])
def test_a_checkpoint_inside_that_saves_nothing_is_planned_anew(policy):
    np.testing.assert_allclose(
        jax.grad(bwsk_jax.reversible(inner(policy)))(X), jax.grad(inner(policy))(X), rtol=1e-6
    )


def test_a_policy_inside_a_loop_is_kept_to():
    f = inner(jax.checkpoint_policies.everything_saveable)
    looped = lambda x: jax.lax.scan(lambda c, _: (c * f(c), None), x, None, 3)[0].sum()
    np.testing.assert_allclose(jax.grad(bwsk_jax.reversible(looped))(X), jax.grad(looped)(X), rtol=1e-6)


def test_other_arguments_are_refused():
    with pytest.raises(TypeError, match="does not take overhead: there is no such argument"):
        bwsk_jax.reversible(block, overhead=0.1)
