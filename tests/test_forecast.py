"""`jaxfer plan` without a compiler for TPUs: slices by name, collectives by hand, seconds from published peaks."""

from __future__ import annotations

import pytest

from jaxfer.errors import InputError
from jaxfer.forecast import CHIPS, GIB, Compiled, Plan, StagePlan, collectives, plan

HLO = """
  %all-reduce.1 = f32[64,32]{1,0:T(8,128)} all-reduce(f32[64,32]{1,0} %x), replica_groups={{0,1}}
  %ag = (bf16[8,4]{1,0}, bf16[16,4]{1,0}) all-gather-start(bf16[8,4]{1,0} %y), dimensions={0}
  %ag.done = bf16[16,4]{1,0} all-gather-done(%ag)
  ROOT %r = f32[] all-reduce(f32[] %l), to_apply=%add
  %fusion = f32[9,9]{1,0} fusion(f32[9] %all-reduce.1), kind=kLoop
"""


def test_collectives_are_counted_by_what_they_give_out():
    """An asynchronous one gives out its result beside its operand: the larger is the result."""
    assert collectives(HLO) == {"all-reduce": 64 * 32 * 4 + 4, "all-gather": 16 * 4 * 2}


def make(total: int, **remedies: int) -> Plan:
    step = Compiled(
        arguments=GIB,
        outputs=0,
        temporaries=total - GIB,
        program=0,
        alias=GIB,
        state=GIB,
        flops=197e12 / 100,
        accessed=819e9 / 200,
        collectives={"all-reduce": 200_000_000},
        model_flops=4 * 197e12 / 200,
    )
    stage = StagePlan(stage="train", batch_size=64, mesh="data 4", compiled=step, remedies=remedies)
    return Plan(topology="v5e:2x2", chip=CHIPS["v5e"], chips=4, stages=(stage,))


def test_seconds_and_mfu():
    """10 ms of products, 5 of memory, 1 of links; half of the operations are the model's: at best 10 ms, 50 %."""
    found = make(2 * GIB)
    step = found.stages[0].compiled
    assert found.seconds(step) == {"products": pytest.approx(0.01), "memory": pytest.approx(0.005), "links": 0.001}
    assert found.mfu(step) == pytest.approx(0.5)
    assert found.fits
    assert "10.00 ms a step at best: products" in str(found)
    assert "2.00 of 16.00 GiB: fits (State 1.00, batch 0.00, temporary 1.00" in str(found)


def test_what_does_not_fit_says_what_would():
    found = make(20 * GIB, a=18 * GIB, b=9 * GIB)
    assert not found.fits
    assert "20.00 of 16.00 GiB: DOES NOT FIT" in str(found)
    assert "not enough: a (18.00 GiB)\n  then it fits: b (9.00 GiB)" in str(found)


@pytest.mark.parametrize(
    ("topology", "message"),
    [
        ("v5:4x4", "--topology: no TPU 'v5'; nearest: 'v5p', 'v5e', 'v4'; e.g. v5e:4x4"),
        ("v5e", "--topology: a v5e slice has 2 axes, found ''; e.g. v5e:4x4"),
        ("v5e:4x4x4", "--topology: a v5e slice has 2 axes, found '4x4x4'; e.g. v5e:4x4"),
        ("v4:4x4", "--topology: a v4 slice has 3 axes, found '4x4'; e.g. v4:2x2x2"),
        ("v6e:ax2", "--topology: a v6e slice has 2 axes, found 'ax2'; e.g. v6e:4x4"),
    ],
)
def test_slices_that_are_none(topology, message):
    with pytest.raises(InputError) as caught:
        plan(None, topology)
    assert str(caught.value) == message
