"""What is read from compiled programs: how often everything runs, what it costs and where devices meet."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from bwsk_jax.targets import Collective
from bwsk_jax.targets.hlo import collectives, estimated_cycles

TPU = """\
HloModule jit_f, is_scheduled=true

%five (counter: s32[]) -> pred[] {
  %c = s32[] parameter(0)
  %limit.1 = s32[]{:T(128)} constant(5)
  ROOT %lt = pred[]{:T(512)} compare(%c, %limit.1), direction=LT
}

%unknown (counter: s32[]) -> pred[] {
  %c = s32[] parameter(0)
  ROOT %lt = pred[]{:T(512)} fusion(%c), kind=kLoop, calls=%anything
}

%dear (x: f32[8]) -> f32[8] {
  ROOT %dot = f32[8] fusion(%x), kind=kOutput, calls=%any, backend_config={"estimated_cycles":"1000"}
}

%cheap (x: f32[8]) -> f32[8] {
  ROOT %add = f32[8] fusion(%x), kind=kLoop, calls=%any, backend_config={"estimated_cycles":"10"}
}

%gathered (x: f32[2]) -> f32[8] {
  %part = f32[8] all-gather(%x), channel_id=7, metadata={op_name="jit(f)/c"}
  ROOT %used = f32[8] add(%part, %part)
}

%inner (state: f32[8]) -> f32[8] {
  %sum = (bf16[4,8]{1,0}, bf16[32,8]{1,0}) all-gather-start(%state), metadata={op_name="jit(f)/a"}
  %end = bf16[32,8]{1,0} all-gather-done(%sum), metadata={op_name="jit(f)/a"}
  %begun = f32[8] fusion(%state), kind=kCustom, calls=%gathered
  %ended = f32[8] fusion(%begun), kind=kCustom, calls=%gathered
  ROOT %some = f32[8] fusion(%state), kind=kLoop, calls=%any, backend_config={"estimated_cycles":"7"}
}

%outer.2 (state: f32[8]) -> f32[8] {
  %loop = f32[8]{0:T(128)} while(%state), condition=%five, body=%inner, metadata={op_name="jit(f)/while"}
  %either = f32[8] conditional(%p, %loop, %loop), branch_computations={%cheap, %dear}
  ROOT %never = f32[8] fusion(%either), kind=kLoop, calls=%any, backend_config={"estimated_cycles":"-1"}
}

ENTRY %main.3 (x: f32[8]) -> f32[8] {
  %a = f32[8] while(%x), condition=%five, body=%outer.2
  %b = f32[8] while(%a), condition=%unknown, body=%cheap
  %both = (f32[3], s4[3]) all-reduce(%b, %b), to_apply=%add, metadata={op_name="jit(f)/b"}
  %all-reduce.9 = f32[8] fusion(%b), kind=kLoop, calls=%cheap
  ROOT %c = f32[8] call(%b), to_apply=%cheap
}
"""


def test_cycles_count_as_often_as_they_run():
    assert estimated_cycles(TPU) == 5 * (5 * 7 + 1000) + 10 + 10


def test_collectives_are_found_with_what_they_move():
    assert collectives(TPU) == (
        Collective("all-gather", times=25, bytes=32 * 8 * 2, operation="jit(f)/a"),
        Collective("all-gather", times=25, bytes=8 * 4, operation="jit(f)/c"),
        Collective("all-reduce", times=1, bytes=3 * 4 + 3 // 2, operation="jit(f)/b"),
    )


def test_what_gathers_an_argument_belongs_to_its_reader():
    line = lambda name, called, of: f'  %{name} = f32[8] {called}, metadata={{op_name="{of}"}}\n'
    start, end = line("a.1", "all-gather-start(%x)", "x"), line("b.1", "all-gather-done(%a.1)", "x")
    other, reader = (
        line("c.1", "add(%b.10, %b.1.2)", "jit(f)/add"),
        line("d.1", "sort(%c.1, %b.1)", "jit(f)/sort"),
    )
    of = lambda *lines: (
        collectives("ENTRY %main (x: f32[8]) -> f32[8] {\n" + "".join(lines) + "}")[0].operation
    )
    assert of(start, end, other, reader) == "jit(f)/sort"
    assert of(start, end, other) == "x"


@pytest.mark.parametrize("length", [1, 7])
def test_the_loops_of_a_program_of_this_machine_are_counted(length):
    mesh = jax.make_mesh((4,), ("rows",), axis_types=(AxisType.Auto,))
    put = lambda *axes: NamedSharding(mesh, PartitionSpec(*axes))
    x = jax.ShapeDtypeStruct((8, 16), jnp.float32, sharding=put(None, "rows"))
    w = jax.ShapeDtypeStruct((length, 16, 16), jnp.float32, sharding=put(None, "rows", None))

    def f(x, w):
        return jax.lax.scan(lambda c, w: (jnp.tanh(c @ w), c.sum()), x, w)

    text = jax.jit(f).lower(x, w).compile().as_text()
    sums = [found for found in collectives(text) if found.kind == "all-reduce"]
    assert sum(found.times for found in sums if found.bytes > 4) == length
    assert estimated_cycles(text) is None
