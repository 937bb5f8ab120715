"""PatchTST's other heads against transformers: a forecast of points, trained too, and a regression."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("torch", reason="needs PyTorch: the extra `parity`")

import torch
from safetensors.numpy import save_file
from transformers import PatchTSTConfig, PatchTSTForPrediction, PatchTSTForRegression

from jaxfer.models.port import Training
from jaxfer.pretrained.families import by_family
from jaxfer.pretrained.layout import store
from jaxfer.rules import flatten
from tests.parity.families.patchtst import ODD, placed
from tests.parity.reference import BOUND, compare, images, ours, settle, tensors

pytestmark = pytest.mark.optimised

LAYOUT = by_family("patchtst", "hf")
HORIZON, STEPS, EXAMPLES, RATE = 5, 10, 8, 0.02
POOLS = {"mean": {}, "flatten": dict(pooling_type=None), "cls": dict(use_cls_token=True, scaling="mean")}


def opened(kind, folder, head, outputs, **config):
    config = PatchTSTConfig(**{**ODD, "prediction_length": HORIZON, **config})
    torch.manual_seed(0)
    model = settle(kind(config), series(EXAMPLES, 0), last=r".*\.(out_proj|ff\.3)", gain=0.5)
    placed(model)
    model.config.architectures = [kind.__name__]
    return model, ours(LAYOUT, model.config.to_dict(), tensors(model, folder), outputs, **head)


def series(examples, seed, length=ODD["context_length"]):
    return torch.from_numpy(images((length, ODD["num_input_channels"]), examples, seed) * 2 + 1)


@pytest.mark.parametrize("pool", POOLS)
def test_a_forecast_its_training_and_its_export(pool, tmp_path):
    model, (port, params, state) = opened(PatchTSTForPrediction, tmp_path, {"head": "forecast"}, HORIZON, **POOLS[pool])
    with torch.no_grad():
        expected = model.eval()(series(2, 1)).prediction_outputs.numpy()
    batch = both(series(2, 1))
    compare({"logits": np.asarray(port.apply(params, state, batch)[0])}, {"logits": expected})

    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LAYOUT.config(port, {}, ())))
    stored = {key: np.asarray(value, order="C") for key, value in store(params, state, LAYOUT, port).items()}
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    again, report = PatchTSTForPrediction.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    with torch.no_grad():
        np.testing.assert_allclose(again.eval()(series(2, 1)).prediction_outputs, expected, rtol=0, atol=1e-5)

    before = flatten(params)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    model.train()
    training = Training(key=jax.random.key(0), live=frozenset(port.units), eval_norms=frozenset())

    @jax.jit
    def step(params, state, batch, future):
        def loss(params):
            outputs, after = port.apply(params, state, batch, training=training)
            return jnp.square(outputs - future).mean(), after

        gradient, after = jax.grad(loss, has_aux=True)(params)
        return jax.tree.map(lambda leaf, slope: leaf - RATE * slope, params, gradient), after

    for seed in range(STEPS):
        past, future = series(EXAMPLES, seed), series(EXAMPLES, 100 + seed, HORIZON)
        optimizer.zero_grad()
        model(past, future_values=future).loss.backward()
        optimizer.step()
        params, state = step(params, state, both(past), future.numpy())
    found, theirs = flatten({"params": params, **state}), tensors(model, tmp_path / "after")
    for leaf, key in LAYOUT.keys(port).items():
        expected = key.load(theirs[key.name])
        allowed = BOUND * max(1.0, np.abs(expected).max())
        assert np.abs(found[leaf] - expected).max() <= allowed, leaf
        moved = leaf.removeprefix("params/") not in before or np.abs(expected - before[leaf[7:]]).max() > 5 * allowed
        assert moved or leaf.endswith("/key/bias"), leaf


def both(past):
    return {"series": past.numpy(), "history": past.numpy()}


def test_a_regression_is_read(tmp_path):
    model, (port, params, state) = opened(PatchTSTForRegression, tmp_path, {}, 3)
    with torch.no_grad():
        expected = model.eval()(series(2, 1)).regression_outputs.numpy()
    compare(
        {"logits": np.asarray(port.apply(params, state, {"series": series(2, 1).numpy()})[0])}, {"logits": expected}
    )
