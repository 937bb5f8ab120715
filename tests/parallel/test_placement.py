"""Placement and compiled programs."""

from __future__ import annotations

import dataclasses
import math
import types

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxfer.config.experiment import ParallelConfig
from jaxfer.errors import InputError
from jaxfer.parallel.placement import Placement, placement
from jaxfer.rules import flatten
from jaxfer.stages import example_batch
from jaxfer.step import make_eval_step
from jaxfer.training.programs import lower_step, train_program
from tests.experiments import backbone, batches, tiny_stage, train

pytestmark = pytest.mark.system


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


def test_64_bits_are_refused():
    """They change the bits of a run whose config says float32."""
    jax.config.update("jax_enable_x64", True)
    try:
        with pytest.raises(InputError, match="^JAX_ENABLE_X64: .*; unset it$"):
            placement(ParallelConfig())
    finally:
        jax.config.update("jax_enable_x64", False)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("Unable to initialize backend 'tpu': no TPU. (set JAX_PLATFORMS='')"), "backend 'tpu': no TPU"),
        (AssertionError(), "no such device, or its plugin is missing"),
    ],
)
def test_a_platform_that_jax_can_not_use_is_one_line(monkeypatch, error, reason):
    def devices():
        raise error

    monkeypatch.setattr(jax, "devices", devices)
    with pytest.raises(InputError, match=rf"^JAX_PLATFORMS=cpu: JAX can't use it \(.*{reason}\); unset it, or install"):
        placement(ParallelConfig())


@pytest.mark.parametrize(
    ("fields", "mesh"),
    [
        ({}, (4, 1, 1)),
        ({"mode": "fsdp"}, (1, 4, 1)),
        ({"mode": "tensor"}, (1, 1, 4)),
        ({"fsdp": 2}, (2, 2, 1)),
        ({"tensor": 2}, (2, 1, 2)),
        ({"fsdp": 2, "tensor": 2}, (1, 2, 2)),
        ({"mode": "fsdp", "tensor": 2}, (1, 2, 2)),
        ({"fsdp": 2, "devices": 2}, (1, 2, 1)),
        ({"mode": "tensor", "devices": 3}, (1, 1, 3)),
    ],
    ids=str,
)
def test_the_mesh_by_its_axes(fields, mesh):
    where = placement(ParallelConfig(**fields), [12])
    assert tuple(where.mesh.shape.values()) == mesh and where.mesh.axis_names == ("data", "fsdp", "tensor")
    assert where.parts == mesh[0] * mesh[1] and where.shards == (mesh[1] * mesh[2] > 1)


def test_devices_are_as_many_as_split_every_slice():
    """Examples are split over data and fsdp; what tensor holds sees them all."""
    for fields, sizes, accumulate, count in [
        ({}, [8], [4], 2),
        ({"fsdp": 2}, [6], [1], 2),
        ({"tensor": 2}, [6], [1], 4),
        ({"mode": "tensor"}, [7], [1], 4),
    ]:
        assert placement(ParallelConfig(**fields), sizes, accumulate=accumulate).size == count
    with pytest.raises(InputError, match="8 examples can't be split over 2 devices in 8 slices; use 16"):
        placement(ParallelConfig(fsdp=2), [8], accumulate=[8])


# Two heads, so that `tensor` has some to split; a norm of batch statistics and anchors; adapters and a table.
ATTENTION = dict(name="vit", patch=3, width=12, layers=2, heads=2, mlp_width=20, image=(6, 9, 3))
CASES = {
    "vit-full": ("vit_cls", dict(method="full", model=ATTENTION)),
    "resnet-l2sp": ("resnet_basic", dict(method="l2sp")),
    "bert-lora": ("bert_mean", dict(method="lora")),
    "vit-accumulated": ("vit_cls", dict(method="full", model=ATTENTION, accumulate=2)),
}
MIXED = {"devices": 4, "fsdp": 2, "tensor": 2}
RULES = (("block_.*/mlp/.*/kernel", "tensor -"), ("block_.*/attn/.*/kernel", "- fsdp -"))
MESHES = (
    *({"devices": 4, "mode": "fsdp"}, {"devices": 4, "fsdp": 2}, {"devices": 4, "tensor": 2}),
    *({"devices": 2, "mode": "tensor"}, {**MIXED, "rules": RULES}),
)


@pytest.mark.parametrize(
    ("name", "meshes"),
    [
        *((name, (MIXED,)) for name in CASES if name != "vit-accumulated"),
        pytest.param("vit-accumulated", (MIXED,), marks=pytest.mark.rest),
        ("vit-full", MESHES),
    ],
    ids=[*CASES, "vit-full-meshes"],
)
def test_parameters_under_sgd_are_those_of_one_device(name, meshes):
    case, fields = CASES[name]
    stage = tiny_stage(case, optimizer="sgd", lr=1e-2, **fields)
    one, losses = train(stage, 10)
    for mesh in meshes:
        state, found = train(stage, 10, **mesh)
        np.testing.assert_allclose(found, losses, rtol=0, atol=2e-5)
        for part in ("params", "model_state"):
            ours, theirs = flatten(getattr(one, part)), flatten(getattr(state, part))
            for path, leaf in ours.items():
                np.testing.assert_allclose(leaf, theirs[path], rtol=0, atol=2e-5, err_msg=f"{mesh} {path}")
        where = placement(ParallelConfig(**mesh), [8])
        assert_lies(where, stage, state)


def assert_lies(where: Placement, stage, state):
    """Every leaf where its rule says, a moment or an anchor beside its parameter; updated in place, all of it."""
    shardings = where.shardings(stage.spec, state.params, state)
    held = 0
    for leaf, wanted in zip(jax.tree.leaves(state), jax.tree.leaves(shardings), strict=True):
        assert leaf.sharding.is_equivalent_to(wanted, leaf.ndim)
        held += math.prod(leaf.addressable_shards[0].data.shape) * leaf.dtype.itemsize
    assert held == where.device_bytes(stage.spec, state)
    parameters = flatten(state.params)
    for part in (state.opt_state, state.extra):
        for keys, leaf in jax.tree_util.tree_leaves_with_path(part):
            path = getattr(keys[-1], "key", None)
            assert path not in parameters or leaf.sharding.is_equivalent_to(parameters[path].sharding, leaf.ndim)
    batch = example_batch(stage.spec.port, stage.spec.task, 8)
    program, fresh = train_program(stage.spec, state, batch, where)
    assert not fresh and program.alias_bytes >= held


@pytest.mark.parametrize(
    ("name", "mesh"),
    [
        ("vit-full", MIXED),
        ("vit-full", MESHES[2]),
        ("bert-lora", MESHES[0]),
    ],
)
def test_losses_and_logits_under_adam_are_those_of_one_device(name, mesh):
    # Parameters can't be compared under Adam: it turns the rounding of a zero gradient into steps of size lr.
    case, fields = CASES[name]
    stage = tiny_stage(case, lr=1e-3, clip=1.0, weight_decay=0.1, layer_decay=0.7, **fields)
    (batch,) = batches(stage, 1, seed=9)
    evaluate = jax.jit(make_eval_step(stage.spec))
    found = []
    for parallel in ({}, mesh):
        state, losses = train(stage, 10, **parallel)
        found.append((losses, evaluate(*jax.device_get((state.params, state.model_state, state.extra)), batch)))
    (losses, scores), (others, theirs) = found
    np.testing.assert_allclose(losses, others, rtol=0, atol=2e-5)
    np.testing.assert_allclose(scores["collected"], theirs["collected"], rtol=0, atol=2e-5)


@pytest.mark.parametrize("mesh", [{"devices": 4}, {"devices": 4, "mode": "pmap"}, MESHES[0], MIXED], ids=str)
@pytest.mark.parametrize(
    "fields", [{}, pytest.param({"momentum_dtype": "bfloat16", "accumulate": 2}, marks=pytest.mark.rest)], ids=str
)
def test_the_whole_state_is_updated_in_place(mesh, fields):
    stage, where = tiny_stage("vit_cls", model=ATTENTION, **fields), placement(ParallelConfig(**mesh), [8])
    program, _ = train_program(stage.spec, stage.blank(0), example_batch(stage.spec.port, stage.spec.task, 8), where)
    assert program.alias_bytes >= where.device_bytes(stage.spec, stage.blank(0)) > 0


def test_a_rule_of_the_users_moves_a_parameter():
    stage = tiny_stage("resnet_basic", optimizer="sgd")
    rules = (("head/out/kernel", "-  -"), ("stem/conv/kernel", "- - - fsdp"))
    where = placement(ParallelConfig(devices=2, fsdp=2, rules=rules))
    where.check([stage])
    found = flatten(where.shardings(stage.spec, stage.shapes[0], stage.shapes[0]))
    assert found["head/out/kernel"].spec == P()
    assert found["stem/conv/kernel"].spec == P(None, None, None, ("fsdp",))
    assert found["block_2/conv_2/kernel"].spec == P(None, None, ("fsdp",))
    assert list(where.notes(stage)) == []
    assert "have no effect" in next(placement(ParallelConfig(devices=1, rules=rules)).notes(stage))
    (note,) = placement(ParallelConfig(devices=4, mode="tensor")).notes(stage)
    assert note.startswith("3 parameters have no axis that tensor=4 divides and are not split: ")


def test_trap_sharding_parameters_alone_replicates_the_activations():
    """Temporary memory a device of a small BERT: at most 1.5 x data parallel's, and more without the constraint."""
    model = dict(name="bert", vocab=98, width=64, layers=1, heads=2, mlp_width=256, positions=64, max_length=64)
    stage = tiny_stage("bert_mean", model=model, batch_size=64)

    class Bare(Placement):
        def applied(self, spec):
            return spec

    data, fsdp = (placement(ParallelConfig(mode=mode, devices=4)) for mode in ("jit", "fsdp"))
    bare = Bare(**{field.name: getattr(fsdp, field.name) for field in dataclasses.fields(fsdp)})
    temporary = [
        lower_step(stage, where).compile().memory_analysis().temp_size_in_bytes for where in (data, fsdp, bare)
    ]
    assert temporary[1] <= 1.5 * temporary[0]
    assert temporary[2] > 1.3 * temporary[1]


def test_a_step_is_lowered_without_allocating_anything():
    stage = tiny_stage("vit_cls", model=dict(name="vit", image=(224, 224, 3), layers=2))
    before = {id(a) for a in jax.live_arrays()}
    lowered = lower_step(stage, placement(ParallelConfig(fsdp=2, tensor=2)))
    assert sum(a.nbytes for a in jax.live_arrays() if id(a) not in before) < 1e5
    state, _ = lowered.args_info[0]
    assert all(leaf.donated for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize("case", [pytest.param("resnet_basic", marks=pytest.mark.rest), "vit_cls"])
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


@pytest.mark.parametrize(
    ("order", "axes", "expected"),
    [
        # Hosts in the order in which JAX lays a v5e 4x4 along its wires.
        ("0011110233332220", (16, 1, 1), {0: [0, 1, 6, 15], 1: [2, 3, 4, 5], 2: [7, 12, 13, 14], 3: [8, 9, 10, 11]}),
        ("0011110233332220", (2, 4, 2), {0: [0, 3, 7], 1: [1, 2], 2: [3, 6, 7], 3: [4, 5]}),
        ("01", (1, 1, 2), {0: [0], 1: [0]}),
    ],
)
def test_rows_of_a_process_are_those_of_its_devices(order, axes, expected):
    devices = np.array([types.SimpleNamespace(process_index=int(host)) for host in order]).reshape(axes)
    mesh = types.SimpleNamespace(devices=devices, shape=dict(zip(("data", "fsdp", "tensor"), axes, strict=True)))
    where = Placement("jit", mesh)
    assert {host: where.rows(where.parts, host).tolist() for host in expected} == expected
    for host, parts in expected.items():
        assert where.rows(3 * where.parts, host).tolist() == [3 * part + i for part in parts for i in range(3)]


def test_devices_of_several_processes():
    """As many devices of each, whether they are here or a topology's; pmap is of one process."""
    devices = [types.SimpleNamespace(process_index=i // 2) for i in range(4)]
    with pytest.raises(InputError, match="mode=pmap supports one process, found 2; use mode=jit"):
        placement(ParallelConfig(mode="pmap"), [8], devices=devices)
    with pytest.raises(InputError, match=r"config.batch_size: 3 examples can't be split over 2 devices; use 2$"):
        placement(ParallelConfig(), [3], devices=devices)
    with pytest.raises(InputError, match="devices: 3 can't form a mesh .* use a multiple of 2"):
        placement(ParallelConfig(devices=3), [6], devices=devices)
