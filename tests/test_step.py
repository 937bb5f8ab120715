"""The training step in slices of a batch, means over unequal counts, and a state in bfloat16."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfer
from jaxfer.config.experiment import ParallelConfig
from jaxfer.data.encodings.image import preprocess
from jaxfer.data.split import Array, Split
from jaxfer.models.port import Training
from jaxfer.parallel.placement import placement
from jaxfer.rules import flatten
from jaxfer.runs.finished import open_run
from jaxfer.runs.metrics import read_metrics
from jaxfer.stages import example_batch
from jaxfer.step import UNCHANGED, evaluated
from jaxfer.task import Mean, Task
from jaxfer.training import loop
from jaxfer.training.evaluation import evaluate_split
from jaxfer.training.programs import _train_program, train_program
from tests.experiments import backbone, batches, tiny_config, tiny_stage, train
from tests.training.test_resume import Asked

PMAP = {"devices": 4, "mode": "pmap"}


@pytest.mark.parametrize(
    ("case", "fields"),
    [
        ("vit_cls", dict(method="full", clip=0.5)),
        ("resnet_basic", dict(method="l2sp", eval_norms=(".*",))),
        ("bert_mean", dict(method="lora")),
    ],
    ids=["vit-full", "resnet-l2sp", "bert-lora"],
)
def test_the_gradient_of_slices_is_that_of_the_batch(case, fields):
    """At rate 1 without momentum the parameters move by the gradient."""
    fields = dict(optimizer="sgd", lr=1.0, momentum=0.0, **fields)
    whole, losses = train(tiny_stage(case, **fields), 1)
    sliced, found = train(tiny_stage(case, accumulate=4, **fields), 1, devices=2)
    assert found == pytest.approx(losses, abs=1e-6)
    for path, leaf in flatten(whole.params).items():
        np.testing.assert_allclose(leaf, flatten(sliced.params)[path], rtol=0, atol=1e-6, err_msg=path)


def test_methods_that_differ_in_training_alone_evaluate_alike():
    training = dict(optimizer="sgd", schedule="cosine", remat=("block_0",), freeze_units=1)
    alike = [tiny_stage("vit_cls", method=name) for name in ("full", "probe", "l2sp")]
    alike.append(tiny_stage("vit_cls", method="full", **training))
    others = [tiny_stage("vit_cls", **fields) for fields in ({"method": "lora"}, {"adds": ("ema",)})]
    others += [tiny_stage("vit_cls", compute_dtype="bfloat16"), tiny_stage("vit_cls", classes=5)]
    specs = [evaluated(stage.spec) for stage in (*alike, *others)]
    assert len(set(specs[:4])) == 1 and len(set(specs)) == 5
    assert [spec.method is UNCHANGED for spec in specs] == [True] * 4 + [False, False, True, True]
    assert evaluated(specs[0]) == specs[0]


COUNTS = np.asarray([0, 0, 5, 1, 4, 0, 0, 3])  # of 8 examples; pmap gives the first of four devices nothing to learn
KEPT = np.arange(5) < COUNTS[:, None]


def _repeated_targets(split, rows, encoded, draw):
    return {name: split.columns[name].values[split.rows[rows]] for name in ("label", "kept")}


def _repeated_mean(outputs, batch):
    logp = jax.nn.log_softmax(outputs.astype(jnp.float32))
    return Mean.over(-jnp.take_along_axis(logp, batch["label"], axis=-1), batch["kept"])


def _repeated_scores(outputs, batch):
    hit = outputs.argmax(-1)[:, None] == batch["label"]
    first = Mean(hit[:, 0].astype(jnp.float32))  # a metric that counts whole examples
    return {"loss": _repeated_mean(outputs, batch), "accuracy": Mean.over(hit, batch["kept"]), "first": first}


REPEATED = Task(  # five labels of one example, of which a few count: tokens are like that
    outputs=lambda classes: classes,
    target="repeated",
    shapes=lambda n, outputs, fields: {
        "label": jax.ShapeDtypeStruct((n, 5), "int32"),
        "kept": jax.ShapeDtypeStruct((n, 5), "bool"),
    },
    loss=lambda outputs, batch, hparams: _repeated_mean(outputs, batch),
    scores=_repeated_scores,
    targets=_repeated_targets,
)


def repeated(accumulate=1, **fields):
    """(a stage of that task, its batch of 8)."""
    fields = dict(optimizer="sgd", lr=1.0, momentum=0.0, **fields)
    stage = tiny_stage("vit_cls", accumulate=accumulate, **fields)
    stage = dataclasses.replace(stage, spec=dataclasses.replace(stage.spec, task=REPEATED))
    (batch,) = batches(stage, 1)
    return stage, batch | {"kept": KEPT}


def one_step(stage, batch, **parallel):
    """(parameters after a step, its metrics)."""
    where = placement(ParallelConfig(**{"devices": 1, **parallel}), [len(batch["kept"])])
    state = where.place(stage.spec, stage.enter(*backbone(stage), 0))
    shapes = example_batch(stage.spec.port, stage.spec.task, len(batch["kept"]))
    program, _ = train_program(stage.spec, state, shapes, where)
    (fed,) = where.feed([batch], train=True)
    state, metrics = program.call(state, fed)
    return flatten(jax.device_get(state.params)), {name: float(value) for name, value in metrics.items()}


def norm(leaves):
    return np.sqrt(sum(np.square(np.asarray(leaf, np.float64)).sum() for leaf in leaves))


def test_unequal_counts_weigh_slices_and_devices():
    """Against the gradient of the whole batch by hand, at rate 1; the first slice or device may hold nothing.

    L2-SP's penalty is beside the mean and has no count; what `full` does is the rest.
    """
    stage, batch = repeated(method="full")
    params, port = backbone(stage)[0], stage.spec.port
    before = flatten(params)

    @jax.jit
    @jax.value_and_grad
    def loss(params, part, count):
        return _repeated_mean(port.apply(params, {}, part)[0], part).total.sum() / count

    def gradient(rows=slice(None)):
        part = {name: value[rows] for name, value in batch.items()}
        value, gradients = loss(params, part, np.float32(max(1, COUNTS[rows].sum())))
        return flatten(gradients), float(value)

    (whole, value), outputs = gradient(), jax.jit(port.apply)(params, {}, batch)[0]
    fields = dict(method="l2sp", options={"alpha": 0.2, "beta": 0.6})  # at the start a penalty of the head alone
    pulled = [path for path in before if path.startswith("head/out/")]
    wanted = {path: before[path] - whole[path] - (0.6 * before[path] if path in pulled else 0) for path in before}
    value += 0.3 * norm(before[path] for path in pulled) ** 2
    for count, parallel in ((1, {}), (4, {}), (2, PMAP), (2, {"devices": 4})):
        found, metrics = one_step(*repeated(count, **fields), **parallel)
        for path, leaf in found.items():
            apart = norm([leaf - wanted[path]]) / norm([wanted[path]])
            assert apart <= 1e-6, f"{path} in {count} slices, {parallel}: {apart:.2g}"
        assert metrics["loss"] == pytest.approx(value, rel=1e-6)
        hit = np.asarray(outputs).argmax(-1)[:, None] == np.asarray(batch["label"])
        assert metrics["accuracy"] == pytest.approx(hit[KEPT].mean(), rel=1e-6)
        assert metrics["first"] == pytest.approx(hit[:, 0].mean(), rel=1e-6)
    # The trap: an average of the averages of four slices, or of four devices.
    for parts in ([slice(i, None, 4) for i in range(4)], [slice(i, i + 2) for i in range(0, 8, 2)]):
        averages = [gradient(part)[0] for part in parts]
        wrong = [sum(average[path] for average in averages) / 4 - whole[path] for path in whole]
        assert norm(wrong) > 0.1 * norm(whole.values())


def test_a_batch_of_nothing_moves_nothing():
    for count, parallel in ((1, {}), (2, {}), (2, PMAP)):
        stage, batch = repeated(count)
        found, metrics = one_step(stage, batch | {"kept": np.zeros_like(KEPT)}, **parallel)
        before = flatten(backbone(stage)[0])
        assert all(np.array_equal(leaf, before[path]) for path, leaf in found.items())
        assert (metrics["loss"], metrics["accuracy"], metrics["grad_norm"]) == (0.0, 0.0, 0.0)


def test_evaluation_divides_once():
    """Whatever the batches, their padding and the devices: the sum over a split through its count."""
    stage, batch = repeated()
    (params, state), rng = backbone(stage), np.random.default_rng(1)
    pixels = rng.integers(0, 256, (8, *stage.spec.port.encoding.size), np.uint8)
    columns = {"label": Array(batch["label"], "repeated"), "kept": Array(KEPT, "repeated")}
    split = Split.whole(image=Array(pixels, "image"), **columns)
    inputs = {"image": np.stack([preprocess(image, stage.spec.port.encoding) for image in pixels])}
    mean = _repeated_mean(stage.spec.port.apply(params, {}, inputs)[0], batch)
    wanted = np.asarray(mean.total, np.float64).sum() / COUNTS.sum()
    averages = [float(Mean(mean.total[i : i + 3], mean.count[i : i + 3]).value()) for i in (0, 3, 6)]
    assert abs(np.mean(averages) - wanted) > 1e-3 * wanted
    for devices, size in ((1, 8), (1, 3), (4, 4)):
        where = placement(ParallelConfig(devices=devices))
        placed = where.place(stage.spec, stage.enter(params, state, 0))
        found = evaluate_split(stage.spec, placed, split, where, size).metrics
        assert found["loss"] == pytest.approx(wanted, rel=1e-6)


def test_batch_statistics_are_each_slices_own_and_running_ones_pass_through():
    stage = tiny_stage("resnet_basic", accumulate=2, lr=0.0)
    taken = "7 norms take their batch statistics from 2 slices of 4 examples, not from the 8 of the batch"
    assert stage.notes == (f"config.accumulate: {taken}",)
    (batch,) = batches(stage, 1)
    state, _ = train(stage, 1)
    params, wanted = backbone(stage)
    for i in range(2):  # every second example
        part = {name: value[i::2] for name, value in batch.items()}
        training = Training(key=jax.random.key(0), live=frozenset(), eval_norms=frozenset())
        _, wanted = stage.spec.port.apply(params, wanted, part, training=training)
    for ours, theirs in zip(jax.tree.leaves(state.model_state), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.system
def test_everything_on_one_compile_and_resumed_it_is_bitwise_the_same(tmp_path, monkeypatch):
    """bfloat16, recomputed, in slices, frozen units, dropout, split over four devices."""
    model = dict(name="vit", patch=3, width=12, layers=2, heads=2, mlp_width=20, image=(6, 9, 3), dropout=0.2)
    fields = dict(compute_dtype="bfloat16", remat=("block_.*",), accumulate=2, momentum_dtype="bfloat16")
    config = tiny_config("vit_cls", model=model, freeze_units=1, log_every=1, lr=1e-2, **fields)
    config.parallel.update(fsdp=2, tensor=2)
    before = _train_program.cache_info().misses
    result = jaxfer.run(config, tmp_path / "whole", quiet=True)
    monkeypatch.setattr(loop, "preemption_notice", lambda: Asked(2))
    with pytest.raises(SystemExit):
        jaxfer.run(config, tmp_path / "parts", quiet=True)
    monkeypatch.undo()
    jaxfer.run(config, tmp_path / "parts", quiet=True)
    assert _train_program.cache_info().misses == before + 1
    whole, parts = (open_run(tmp_path / name) for name in ("whole", "parts"))
    for name in ("params", "opt_state"):
        pairs = zip(
            jax.tree.leaves(getattr(whole.state, name)), jax.tree.leaves(getattr(parts.state, name)), strict=True
        )
        assert all(np.array_equal(a, b) for a, b in pairs)
    kinds = {leaf.dtype.name for leaf in jax.tree.leaves(whole.state.opt_state)}
    assert kinds == {"bfloat16", "float32", "int32"}  # first moments, second moments, counts
    assert {leaf.dtype.name for leaf in jax.tree.leaves(whole.state.params)} == {"float32"}
    assert result["cost"]["state_bytes"] < sum(leaf.nbytes for leaf in jax.tree.leaves(whole.state.params))
    lines = [line["loss"] for line in read_metrics(tmp_path / "parts" / "metrics.jsonl")]
    assert len(lines) == 5 and np.isfinite(lines).all()
