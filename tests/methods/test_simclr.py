"""SimCLR: its loss by hand, two views of the same examples, features that a probe can start from."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfer
from jaxfer.errors import InputError
from jaxfer.methods.simclr import nt_xent, projected
from jaxfer.rules import flatten
from jaxfer.runs.metrics import read_metrics
from jaxfer.tasks.unlabelled import effective_rank
from tests.experiments import tiny_config, tiny_stage


def test_loss_by_hand():
    """Eq. 1, written as its sums over pairs."""
    z, temperature = np.random.default_rng(0).normal(size=(6, 4)), 0.5
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    similar = np.exp(unit @ unit.T / temperature)
    losses = []
    for i in range(6):
        partner = (i + 3) % 6
        losses.append(-np.log(similar[i, partner] / sum(similar[i, k] for k in range(6) if k != i)))
    value, right = nt_xent(jnp.asarray(z, jnp.float32), temperature)
    assert float(value) == pytest.approx(np.mean(losses), rel=1e-6)
    nearest = [max((k for k in range(6) if k != i), key=lambda k: similar[i, k]) for i in range(6)]
    assert float(right) == pytest.approx(np.mean([nearest[i] == (i + 3) % 6 for i in range(6)]))


def test_a_projection_with_batch_norms_by_hand():
    """Both layers over all views; the last one has no bias, as in the authors' code."""
    rng = np.random.default_rng(0)
    x, first, second = rng.normal(size=(6, 4)), rng.normal(size=(4, 4)), rng.normal(size=(4, 3))
    bias, scales = rng.normal(size=4), (rng.uniform(0.5, 1.5, 4), rng.uniform(0.5, 1.5, 3))

    def over(y, scale):
        return (y - y.mean(0)) / np.sqrt(y.var(0) + 1e-5) * scale

    hidden = np.maximum(over(x @ first, scales[0]) + bias, 0)
    head = {"hidden": {"kernel": first, "bias": bias, "scale": scales[0]}, "out": {"kernel": second}}
    plain = np.maximum(x @ first + bias, 0) @ second
    with jax.enable_x64(True):
        normed = {**head, "out": {"kernel": second, "scale": scales[1]}}
        np.testing.assert_allclose(projected(jax.tree.map(jnp.asarray, normed), x), over(hidden @ second, scales[1]))
        head["hidden"].pop("scale")
        np.testing.assert_allclose(projected(jax.tree.map(jnp.asarray, head), x), plain)
    stage = tiny_stage("resnet_basic", method="simclr", options={"projection": 5, "normed": True})
    shapes = {path: leaf.shape for path, leaf in flatten(stage.shapes[0]["projection"]["head"]).items()}
    layers = {"hidden/kernel": (12, 12), "hidden/bias": (12,), "hidden/scale": (12,)}
    assert shapes == {**layers, "out/kernel": (12, 5), "out/scale": (5,)}


def test_effective_rank_by_hand():
    assert effective_rank(np.eye(4)) == pytest.approx(4)
    assert effective_rank(np.diag([3.0, 1.0])) == pytest.approx(np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25))))
    assert effective_rank(np.ones((5, 3))) == pytest.approx(1)
    assert effective_rank(np.zeros((5, 3))) == 0
    assert np.isnan(effective_rank(np.asarray([[np.nan, 1.0]])))


@pytest.mark.system
def test_a_probe_starts_from_it(tmp_path):
    config = tiny_config("resnet_basic", method="simclr", steps=2)
    config.data.augment = ("flip", "jitter")
    result = jaxfer.run(config, tmp_path / "simclr", quiet=True)
    assert set(result["metrics"]["val"]) == {"rank"}
    assert 1 <= result["metrics"]["val"]["rank"] <= 12  # as many as the features are wide
    train = [line for line in read_metrics(tmp_path / "simclr" / "metrics.jsonl") if line["split"] == "train"]
    assert np.log(15) / 2 < train[0]["loss"] < 2 * np.log(15)  # near that of chance among 15 others
    probe = tiny_config("resnet_basic", method="probe", steps=1, init=f"run:{tmp_path / 'simclr'}")
    begun = jaxfer.run(probe, tmp_path / "probe", quiet=True)
    assert begun["lineage"]["source_sha256"] == result["lineage"]["sha256"]


def test_it_needs_a_task_without_labels(tmp_path):
    config = tiny_config("vit_cls", method="simclr")
    config.task = {"name": "classification"}
    with pytest.raises(InputError, match=r"'simclr' learns the task unlabelled, config.task is 'classification'"):
        jaxfer.run(config, tmp_path / "run", quiet=True)
    config.update(method="full")
    config.task = {"name": "unlabelled"}
    with pytest.raises(InputError, match="has no loss and method 'full' brings none; use simclr"):
        jaxfer.run(config, tmp_path / "run", quiet=True)
