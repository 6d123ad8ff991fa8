"""`fit` takes the fastest of what keeps within the memory, by programs that it compiled."""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bwsk_jax
from bwsk_jax.targets import CompiledProgram, DoesNotFitError, FitError, program
from bwsk_jax.targets.fit import STOCK, parse_bytes
from tests.support.compilers import on_tpu

Shape = jax.ShapeDtypeStruct
WEIGHTS, X = Shape((8, 64, 64), jnp.float32), Shape((256, 64), jnp.float32)
MIB = 2**20


def make(**limit):
    def loss(weights, x):
        layer = lambda x, w: (x + jnp.tanh(jnp.tanh(x @ w) @ w.T), None)
        return (bwsk_jax.reversible_scan(layer, x, weights, **limit)[0] ** 2).sum()

    return jax.jit(jax.grad(loss))


@functools.lru_cache
def found(memory):
    return bwsk_jax.fit(make, WEIGHTS, X, memory=memory)


def of(way):
    return way.time, way.program.peak_bytes


def test_what_is_compared_is_as_it_compiles():
    for way in found("1GB").tried:
        compiled = bwsk_jax.compile_for(make(**way.limit), WEIGHTS, X)
        assert way.program.peak_bytes == compiled.peak_bytes
    assert {way.name for way in found("1GB").tried} > {*STOCK, "least memory", "3% overhead"}


@pytest.mark.parametrize("memory", ["1GB", "2.2MiB", "1.9MiB", "1.6MiB"])
def test_the_fastest_that_keeps_within_the_memory_is_taken(memory):
    result = found(memory)
    fitting = [way for way in result.tried if way.program.peak_bytes <= parse_bytes(memory)]
    assert fitting == [way for way in result.tried if way.fits]
    assert result.best in fitting and of(result.best) == min(map(of, fitting))
    assert result.limit == result.best.limit


def test_less_memory_takes_more_time():
    times = [found(memory).best.time for memory in ("1GB", "2.2MiB", "1.9MiB", "1.6MiB")]
    assert times == sorted(times) and times[0] < times[-1]


def test_recomputation_counts_as_time():
    ways = {way.name: way.time for way in found("1GB").tried}
    assert ways["plain autodiff"] < ways["jax.checkpoint"]
    assert ways["3% overhead"] <= 1.03 * ways["plain autodiff"]


def test_the_function_runs_and_has_the_gradient():
    weights, x = 0.1 * jax.random.normal(jax.random.key(0), WEIGHTS.shape), jnp.ones(X.shape)
    plain = make(plan=STOCK["plain autodiff"])(weights, x)
    tolerance = 1e-5 * float(jnp.abs(plain).max())
    np.testing.assert_allclose(found("1.6MiB").function(weights, x), plain, atol=tolerance)


def test_the_table_marks_the_best():
    text = str(found("1.9MiB"))
    assert text.startswith(f"{found('1.9MiB').best.name} is the fastest within 1.9 MiB on this machine:")
    (marked,) = (line for line in text.splitlines() if line.startswith("* "))
    assert found("1.9MiB").best.name in marked and "GFLOP" in marked and "too much" in text


def test_a_line_tells_of_each(capsys):
    bwsk_jax.fit(make, WEIGHTS, X)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) <= 10 and lines[0].startswith("fit 1/10: plain autodiff")
    assert all(line.endswith("s left") for line in lines)


def test_a_policy_that_cannot_be_traced_is_left_out(capsys):
    """JAX 0.10 traces no policy that saves complex numbers."""

    def make_complex(**limit):
        layer = lambda x, w: (jnp.tanh(x @ w), None)
        loss = lambda w, x: jnp.abs(bwsk_jax.reversible_scan(layer, x, w, **limit)[0]).sum()
        return jax.grad(loss)

    found = bwsk_jax.fit(
        make_complex, *(jax.ShapeDtypeStruct(s, jnp.complex64) for s in ((4, 8, 8), (16, 8)))
    )
    told = capsys.readouterr().err
    for name in STOCK:
        left_out = f"fit: {name} is left out: TypeError: reduce_precision" in told
        assert left_out != (name in {way.name for way in found.tried})
    assert "max_overhead" in found.limit or found.best.name in STOCK


def test_a_mistake_in_make_is_raised():
    def broken(**limit):
        raise KeyError("no such layer")

    with pytest.raises(KeyError, match="no such layer"):
        bwsk_jax.fit(broken, jnp.ones(3))


def test_where_nothing_fits_the_least_is_named():
    least = min(way.program.peak_bytes for way in found("1GB").tried)
    with pytest.raises(FitError, match=f"nothing keeps within 1,000 bytes: the least was {least:,}"):
        bwsk_jax.fit(make, WEIGHTS, X, memory=1000)


@pytest.mark.parametrize("memory", ["much", "3 parsecs", "0"])
def test_a_memory_that_is_no_size_is_refused(memory):
    with pytest.raises(ValueError, match="expected"):
        bwsk_jax.fit(make, WEIGHTS, X, memory=memory)


def test_a_function_that_is_not_jitted_is_jitted():
    result = bwsk_jax.fit(lambda **limit: make(**limit).__wrapped__, WEIGHTS, X, memory="1.6MiB")
    assert result.best.program.peak_bytes == found("1.6MiB").best.program.peak_bytes


def test_programs_that_are_the_same_are_compiled_once(monkeypatch):
    compiled = []
    compile_lowered = program.compile_lowered
    monkeypatch.setattr(
        fit_module(), "compile_lowered", lambda *args: compiled.append(args) or compile_lowered(*args)
    )
    result = bwsk_jax.fit(lambda **limit: jax.grad(lambda x: jnp.sin(x).sum()), X)
    assert len(compiled) == 1 < len(result.tried)


def test_what_the_compiler_gives_up_on_does_not_fit(monkeypatch):
    compile_lowered = program.compile_lowered
    count = iter(range(100))

    def giving_up(*args):
        if next(count) == 0:
            raise DoesNotFitError
        return compile_lowered(*args)

    monkeypatch.setattr(fit_module(), "compile_lowered", giving_up)
    result = bwsk_jax.fit(make, WEIGHTS, X)
    first = result.tried[0]
    assert first.program is None and not first.fits and "more than there is" in str(first)
    assert isinstance(result.best.program, CompiledProgram)


def fit_module():
    return importlib.import_module("bwsk_jax.targets.fit")


@on_tpu
def test_for_a_tpu_cycles_decide_and_no_stock_policy_is_faster():
    weights, x = Shape((8, 512, 512), jnp.bfloat16), Shape((8192, 512), jnp.bfloat16)
    plain = bwsk_jax.compile_for(make(plan=STOCK["plain autodiff"]), weights, x, target="v5e")
    memory = int(0.6 * plain.peak_bytes)
    result = bwsk_jax.fit(make, weights, x, memory=memory, target="v5e")
    assert result.best.program.peak_bytes <= memory
    stock = [way for way in result.tried if way.fits and way.name in STOCK]
    assert result.best.program.cycles <= min(way.program.cycles for way in stock)
    assert "M cycles" in str(result)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        *(("1", 1), ("7B", 7), ("2KB", 2000), ("3MB", 3_000_000), ("4GB", 4_000_000_000)),
        *(("2KiB", 2048), ("3MiB", 3 * 2**20), ("8GiB", 8 * 2**30), ("1.5 GiB", 3 * 2**29)),
    ],
)
def test_sizes(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "8gib", "8TB", "GiB", "-1", "1e9", "inf", "8GiB or so"])
def test_what_is_no_size(text):
    with pytest.raises(ValueError, match="a unit of B, KB, MB, GB, KiB, MiB, GiB"):
        parse_bytes(text)


def test_less_than_a_byte_is_refused():
    for text in ("0", "0.4B"):
        with pytest.raises(ValueError, match="at least one byte"):
            parse_bytes(text)
