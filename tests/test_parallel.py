"""Placement and compiled programs."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaxfer.errors import InputError
from jaxfer.experiment import ParallelConfig
from jaxfer.parallel import placement, train_program
from jaxfer.stages import example_batch
from tests.experiments import backbone, tiny_stage


def test_batches_are_split_over_the_devices_in_order():
    where = placement(ParallelConfig(devices=4), [8])
    (batch,) = where.feed([{"x": np.arange(8.0)}], train=True)
    pieces = sorted(batch["x"].addressable_shards, key=lambda shard: shard.device.id)
    assert [list(map(int, piece.data)) for piece in pieces] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    mapped = placement(ParallelConfig(mode="pmap", devices=4), [8])
    (batch,) = mapped.feed([{"x": np.arange(8.0)}], train=True)
    assert batch["x"].shape == (4, 2)
    (batch,) = mapped.feed([{"x": np.arange(8.0)}], train=False)
    assert batch["x"].shape == (8,)


def test_feed_keeps_every_batch_in_order():
    where = placement(ParallelConfig(devices=1))
    for count in (0, 1, 5):
        fed = where.feed(({"x": np.full(2, i)} for i in range(count)), train=True)
        assert [int(batch["x"][0]) for batch in fed] == list(range(count))


def test_evaluation_batches_are_rounded_up():
    where = placement(ParallelConfig(devices=4))
    assert [where.rounded(n) for n in (1, 4, 5, 256)] == [4, 4, 8, 256]


def test_devices_are_checked():
    with pytest.raises(InputError, match="expected at most the 4 here, found 5"):
        placement(ParallelConfig(devices=5))
    with pytest.raises(InputError, match="30 examples can't be split over 4 devices; use 28"):
        placement(ParallelConfig(devices=4), [30])
    assert [placement(ParallelConfig(), sizes).size for sizes in ([], [8], [30], [8, 30], [7])] == [4, 4, 3, 2, 1]


@pytest.mark.parametrize("case", ["resnet_basic", "vit_cls"])
def test_flops_do_not_depend_on_the_placement(case):
    stage = tiny_stage(case)
    state, batch = stage.enter(*backbone(stage), 0), example_batch(stage.spec.port, stage.spec.task, 8)
    flops = {
        train_program(stage.spec, state, batch, placement(ParallelConfig(mode=mode, devices=devices)))[0].flops
        for mode, devices in [("jit", 1), ("jit", 4), ("pmap", 4)]
    }
    assert len(flops) == 1


def test_a_program_refuses_other_shapes():
    stage = tiny_stage("resnet_basic")
    where, shapes = placement(ParallelConfig(devices=1)), example_batch(stage.spec.port, stage.spec.task, 8)
    state = jax.device_put(stage.enter(*backbone(stage), 0), where.replicated)
    program, _ = train_program(stage.spec, state, shapes, where)
    other = {name: np.zeros((4, *shape.shape[1:]), shape.dtype) for name, shape in shapes.items()}
    with pytest.raises(TypeError):
        program.call(state, other)
