"""The largest batch is the largest one, and peaks are those of the compiled step."""

import json
import sys

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import pytest
from hypothesis import given

from bwsk_jax import bert
from experiments import scaling
from experiments.scaling import RESOLUTION, Size, largest
from experiments.steps import OPTIMIZER, abstract_step
from tests.support.tiny import CONFIG

SIZE = Size("demo", "float32", layers=1, seq_len=16, batch=2)


@given(st.integers(0, 500), st.integers(1, 100), st.integers(1, 20_000), st.integers(1, 500))
def test_a_search_ends_between_a_batch_that_fits_and_one_that_does_not(state, each, memory, most):
    """Memory grows by the batch, and a compiler gives up above some batch."""
    tried = []

    def peak(batch):
        tried.append(batch)
        return None if batch > most else state + each * batch

    fits = lambda batch: batch <= most and state + each * batch <= memory
    low, high = largest(peak, memory)
    assert low == 0 or fits(low)
    assert not fits(high) and high - low <= max(1, RESOLUTION * low)
    assert {low, high} - {0} <= set(tried) and len(tried) == len(set(tried)) < 30


def test_a_search_on_a_line_takes_few_compilations():
    tried = []
    assert largest(lambda batch: tried.append(batch) or 1_800 + 36 * batch, 16_000) == (394, 401)
    assert tried == [4, 16, 127, 394, 401]


def test_a_peak_is_what_the_compiled_step_takes():
    found = scaling.compiled("jax.checkpoint", SIZE, None)
    step, *args = abstract_step(SIZE.config, "jax.checkpoint", jnp.float32, 2, 16)
    memory = step.lower(*args).compile().memory_analysis()
    total = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    assert found["peak"] == total - memory.alias_size_in_bytes
    state = jax.eval_shape(lambda: OPTIMIZER.init(bert.init_params(SIZE.config, jax.random.key(0))))
    assert found["peak"] > sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))


@pytest.mark.slow
def test_the_program_writes_points_and_skips_them_the_next_time(results, monkeypatch, capsys):
    flags = (
        "--preset demo --layers 1 --lengths 16 --batches 2 --batch-size 2 --seq-len 16 --precision float32"
    )
    ways = ["--ways", "conventional", "--memory", "0.001"]
    monkeypatch.setattr(bert, "PRESETS", {"demo": CONFIG})
    monkeypatch.setattr(sys, "argv", ["scaling", *flags.split(), *ways])
    scaling.main()
    record = json.loads((results / "cpu" / "scaling.json").read_text())
    shown = capsys.readouterr().out
    monkeypatch.setattr(scaling, "compiled", lambda *_: pytest.fail("compiled again"))
    scaling.main()
    assert capsys.readouterr().out == shown
    assert (
        record["largest"]["0.001"]["conventional"]["batch"]
        < record["largest"]["0.001"]["conventional"]["too_large"]
    )


def test_times_are_not_taken_for_a_target(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["scaling", "--target", "v5e", "--rounds", "3"])
    with pytest.raises(SystemExit, match="2"):
        scaling.main()
    assert "--rounds 3 times steps here, not on v5e" in capsys.readouterr().err
