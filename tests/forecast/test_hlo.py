"""Bytes that collectives send, by hand, of texts as XLA's compilers for CPU and TPU write them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxfer.forecast.hlo import sent

HEAD = "HloModule jit_step, is_scheduled=true, num_partitions=4\n\nENTRY %main (x: f32[8]) -> f32[8] {\n  "


@pytest.mark.parametrize(
    ("line", "kind", "expected"),
    [
        # 2 (n - 1) / n of 64 x 32 float32 in groups of 2; of all 4 where no group is named.
        ("%a = f32[64,32]{1,0:T(8,128)} all-reduce(%x), replica_groups={{0,1},{2,3}}", "all-reduce", 8192),
        ("%a = f32[] all-reduce(f32[] %x), replica_groups={}, to_apply=%add", "all-reduce", 2 * 3 / 4 * 4),
        ("%a = bf16[16,4]{1,0} all-gather(%x), replica_groups=[2,2]<=[4], dimensions={0}", "all-gather", 128 / 2),
        ("%a = f32[16] all-to-all(%x), replica_groups=mesh['a'=2,'b'=2] {'a','b'}", "all-to-all", 64 * 3 / 4),
        # The result of a reduce-scatter is one device's part: 3 times it leave a device.
        ("%a = f32[16] reduce-scatter(%x), replica_groups=mesh['a'=4,'b'=1] {'a'}", "reduce-scatter", 3 * 64),
        (
            "%a = (bf16[8]{0}, bf16[8]{0:S(1)}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%x)",
            "collective-permute",
            16,
        ),
        ("%a = (bf16[8,4]{1,0}, bf16[32,4]{1,0}) all-gather-start(%x), dimensions={0}", "all-gather", 256 * 3 / 4),
        (
            "%a = ((f32[8], f32[2]), (f32[32], f32[8])) all-gather-start(%x, %y), dimensions={0}",
            "all-gather",
            160 * 3 / 4,
        ),
        ("%a = (f32[8], f32[4]) all-reduce-start(%x, %y), replica_groups={{0,1,2,3}}", "all-reduce", 48 * 2 * 3 / 4),
        # A tuple of more than five has a comment in it.
        (
            "%a = (f32[1], f32[1], f32[1], f32[1], f32[1], /*index=5*/f32[27]) all-reduce(%x)",
            "all-reduce",
            128 * 2 * 3 / 4,
        ),
    ],
)
def test_what_a_device_sends(line, kind, expected):
    assert sent(HEAD + line + "\n}\n") == {kind: expected}


def test_a_channel_counts_once_and_done_not_at_all():
    text = (
        HEAD
        + "%s = (f32[8], f32[8], u32[], u32[]) collective-permute-start(%x), channel_id=7\n"
        + "  %d = f32[8] collective-permute-done(%s)\n"
        + "  %again = f32[8] collective-permute(%x), channel_id=7\n"
        + "  %fusion = f32[9,9]{1,0} fusion(f32[9] %all-reduce.1), kind=kLoop\n}\n"
    )
    assert sent(text) == {"collective-permute": 32}


LOOP = """HloModule jit_step, num_partitions=4

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

%inner (q: f32[8]) -> f32[8] {
  %r = f32[8] all-reduce(%q), channel_id=1, to_apply=%add
}

%body (p: (u32[], f32[8])) -> (u32[], f32[8]) {
  %two = u32[]{:T(128)} constant(2)
  %i = u32[]{:T(128)} get-tuple-element(%p), index=0
  %f = f32[8] fusion(%v), kind=kCustom, calls=%inner
  %next = u32[]{:T(128)} add(%i, %two), metadata={op_name="x"}
  ROOT %t = (u32[]{:T(128)}, f32[8]) tuple(%next, %f), metadata={op_name="y"}
}

%condition (p: (u32[], f32[8])) -> pred[] {
  %limit = u32[]{:T(128)} constant(8)
  %i.1 = u32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %less = pred[]{:T(512)} compare(%i.1, %limit), direction=LT
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %w = (u32[]{:T(128)}, f32[8]) while(%start), condition=%condition, body=%body
}
"""


def test_a_loop_counts_its_rounds():
    """From 0 to 8 by twos: 4 rounds of 2 * 3/4 * 32 bytes; with another test of the end, one round."""
    assert sent(LOOP) == {"all-reduce": 4 * 48}
    assert sent(LOOP.replace("direction=LT", "direction=NE")) == {"all-reduce": 48}


def test_a_compiled_program():
    """Sums over a batch split over 4 devices, in a scan of 5 rounds: XLA for CPU reduces 6 numbers in each."""
    mesh = Mesh(np.asarray(jax.devices()[:4]), ("data",), axis_types=(AxisType.Auto,))

    def step(x):
        def add(total, part):
            return total + jnp.tanh(total * part.sum(0)), None

        return jax.lax.scan(add, jnp.zeros(6), x)[0]

    split = NamedSharding(mesh, PartitionSpec(None, "data"))
    x = jax.ShapeDtypeStruct((5, 8, 6), jnp.float32)
    program = jax.jit(step, in_shardings=split, out_shardings=NamedSharding(mesh, PartitionSpec())).lower(x).compile()
    assert sent(program.as_text()) == {"all-reduce": 5 * 24 * 2 * 3 / 4}
