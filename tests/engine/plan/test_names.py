"""Values that have a name are saved, or not saved, as the caller says."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import io_callback

import bwsk_jax
from bwsk_jax import PlanError
from tests.support.parity import INF, assert_same, gradients, random

X, W = random(0, 4, 16), random(1, 5, 2, 16, 16) / 4
TYPES = jax.ShapeDtypeStruct(X.shape, X.dtype), jax.ShapeDtypeStruct(W.shape, W.dtype)


def layer(x, w):
    h = checkpoint_name(jnp.sin(x @ w[0]), "hidden")
    return x + checkpoint_name(jnp.cos(h @ w[1]), "out"), None


def named(plan, name):
    """The values of a name, with it and without it."""
    equations = plan.problem.program.equations
    mine = [e for e in equations if e.params.get("name") == name and str(e.primitive) == "name"]
    return {v for e in mine for v in (*e.reads, *e.outputs)}


def scanned(**options):
    return bwsk_jax.plan_scan(layer, *TYPES, **options)


def test_a_name_to_save_is_saved_where_the_planner_would_not():
    assert not named(scanned(max_overhead=INF), "hidden").intersection(scanned(max_overhead=INF).saved)
    found = scanned(max_overhead=INF, save_names=["hidden"])
    assert len(named(found, "hidden").intersection(found.saved)) == 1


def test_a_name_to_replay_is_not_saved_where_the_planner_would():
    assert named(scanned(max_overhead=0.0), "hidden").intersection(scanned(max_overhead=0.0).saved)
    found = scanned(max_overhead=INF, replay_names=("hidden", "out"))
    assert not named(found, "hidden").union(named(found, "out")).intersection(found.saved)


def test_a_name_to_replay_is_not_saved_in_another_form():
    def f(x):
        h = checkpoint_name(jnp.exp(x), "wide").astype(jnp.bfloat16).T.astype(jnp.float32)
        return (jnp.sin(h) * h).sum()

    saved = bwsk_jax.plan(f, X, max_overhead=0.5, invert=False, replay_names=["wide"]).saved
    forms = bwsk_jax.plan(f, X, max_overhead=0.5, invert=False).problem
    assert not forms.forms_of(forms.named["wide"]).intersection(saved)


def test_what_nothing_reads_is_not_saved_for_its_name():
    f = lambda x: checkpoint_name(jnp.sin(x), "last").sum()
    assert bwsk_jax.plan(f, X, max_overhead=INF, save_names=["last"]).saved_bytes == 0


@pytest.mark.parametrize("names", [{"save_names": ["hidden"]}, {"replay_names": ["hidden", "out"]}])
@pytest.mark.parametrize("invert", [True, False])
def test_the_gradient_is_that_of_the_function(names, invert):
    options = {"max_overhead": INF, "invert": invert, **names}
    scan = functools.partial(bwsk_jax.reversible_scan, **options)
    run = lambda scan: gradients(lambda x, w: scan(layer, x, w), X, W)
    assert_same(run(scan), run(jax.lax.scan))
    block = bwsk_jax.reversible(layer, **options)
    ours, plain = (jax.grad(lambda x, f=f: f(x, W[0])[0].sum())(X) for f in (block, layer))
    np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=1e-6)


def test_too_little_recomputation_for_the_names_says_how_much_it_takes():
    with pytest.raises(PlanError, match=r"max_overhead=0 is too little for replay_names: .* costs \d+\.\d%"):
        scanned(max_overhead=0.0, replay_names=["hidden"])


def test_what_cannot_be_replayed_cannot_be_left_unsaved():
    def f(x):
        drawn = io_callback(np.asarray, TYPES[0], jax.lax.stop_gradient(x))
        return (checkpoint_name(drawn, "drawn") * x).sum()

    assert bwsk_jax.plan(f, X, save_names=["drawn"]).saved_bytes == X.nbytes
    with pytest.raises(PlanError, match="the backward pass cannot do without drawn saved"):
        bwsk_jax.plan(f, X, max_overhead=INF, replay_names=["drawn"])


@pytest.mark.parametrize("field", ["save_names", "replay_names"])
def test_an_unknown_name_is_named_beside_those_that_there_are(field):
    with pytest.raises(ValueError, match=r"the name 'hiden'; the names are: 'hidden', 'out'"):
        scanned(**{field: ["hiden"]})


def test_names_are_a_sequence_of_strings():
    with pytest.raises(TypeError, match="save_names must be a sequence of strings, got 'hidden'"):
        bwsk_jax.reversible(layer, save_names="hidden")
    with pytest.raises(ValueError, match="both save_names and replay_names hold hidden"):
        bwsk_jax.reversible(layer, save_names=["hidden"], replay_names=["hidden"])


def test_names_do_not_go_with_a_plan():
    with pytest.raises(ValueError, match="a plan or a limit, not both"):
        bwsk_jax.reversible(layer, plan=scanned(), save_names=["hidden"])
