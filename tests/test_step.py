"""The training step in slices of a batch, and its state in bfloat16."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import jaxfer
from jaxfer.models.port import Training
from jaxfer.rules import flatten
from jaxfer.runs.finished import open_run
from jaxfer.runs.metrics import read_metrics
from jaxfer.training import loop
from jaxfer.training.programs import _train_program
from tests.experiments import backbone, batches, tiny_config, tiny_stage, train
from tests.training.test_resume import Asked


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
