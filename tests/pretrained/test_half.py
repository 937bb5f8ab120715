"""A file of half precision is the file of the float32 numbers that it rounds to, whatever reads it."""

from __future__ import annotations

import json
import shutil

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from etils import epath

import jaxfer
from jaxfer.exports.predict import load_export
from jaxfer.reports.looked import look
from jaxfer.rules import flatten
from jaxfer.stored import Stored
from jaxfer.training.first import first_state
from jaxfer.training.preflight import preflight
from tests.pretrained.checkpoints import RESNET, assert_same, begin, checkpoint, config_of, weights

DATA = {"data.source": "synthetic", "data.image": (16, 12, 3), "data.classes_count": 3, "data.examples": 48}


@pytest.fixture(scope="module", params=[np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
def pair(request, tmp_path_factory):
    """(folder of the checkpoint in half precision, of the same numbers in float32)."""
    folder = tmp_path_factory.mktemp("half")
    checkpoint(folder / "half", "resnet", RESNET)
    shutil.copytree(folder / "half", folder / "float32")
    half = {key: x.astype(request.param) for key, x in weights(folder / "half").items()}
    for name, tensors in {"half": half, "float32": {key: x.astype(np.float32) for key, x in half.items()}}.items():
        safetensors.numpy.save_file(tensors, folder / name / "model.safetensors", {"format": "pt"})
    return folder / "half", folder / "float32"


def test_its_leaves_are_widened_where_they_are_placed(pair):
    starts = [begin(config_of(folder)) for folder in pair]
    assert all(isinstance(leaf, Stored) for leaf in flatten(starts[0].params).values())
    assert_same(*(start.params for start in starts))
    ready = [preflight(config_of(folder, method="l2sp")) for folder in pair]
    states = [first_state(plan, plan.stages[0], epath.Path("unused")) for plan in ready]
    assert_same(*({"params": s.params, "norms": s.model_state, "anchor": s.extra} for s in states))
    assert {leaf.dtype for leaf in flatten(states[0].params).values()} == {np.dtype(np.float32)}


@pytest.mark.system
def test_a_run_and_its_report(pair, tmp_path):
    found = []
    for folder in pair:
        run = tmp_path / folder.name
        jaxfer.run(config_of(folder, method="full", steps=2, test=True), run, quiet=True)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        looked = look(epath.Path(run))
        found.append(([line.get("loss") for line in lines], looked.moved, looked.alike))
    assert found[0] == found[1] and found[0][1]


@pytest.mark.system
def test_what_reads_it_untrained(pair, tmp_path):
    assert jaxfer.evaluate(pair[0], overrides=DATA) == jaxfer.evaluate(pair[1], overrides=DATA)
    read = [jaxfer.features(folder, split="val", overrides=DATA, quiet=True).arrays()["features"] for folder in pair]
    np.testing.assert_array_equal(*read)
    ranking = jaxfer.rank(config_of(pair[1]), [str(folder) for folder in pair], scores=("logme", "leep"), quiet=True)
    one, other = ({name: score.value for name, score in c.scores.items()} for c in ranking.candidates)
    assert one == other and np.isfinite(list(one.values())).all()


def test_what_it_predicts(pair):
    inputs = list(np.random.default_rng(0).integers(0, 256, (5, 16, 12, 3), np.uint8))
    half, whole = ([p.probabilities for p in jaxfer.predict(folder, inputs)] for folder in pair)
    assert half == whole and len(half) == 5
    leaves = flatten(load_export(pair[0]).network.params).values()
    assert all(isinstance(leaf, jax.Array) and leaf.dtype == np.float32 for leaf in leaves)
