"""`jaxfer select`: of runs with and without the target's labels, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

import jaxfer
from jaxfer.commands import main
from jaxfer.errors import InputError
from jaxfer.evals import unsupervised_selection as scores
from jaxfer.evals.selecting import select
from tests.experiments import tiny_config


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("select")
    for name, rate, test in (("a", 1e-2, True), ("b", 1e-4, True), ("sealed", 1e-3, False)):
        config = tiny_config("row_mlp", method="mcc", steps=4, lr=rate, test=test)
        jaxfer.run(config, folder / name, quiet=True)
    jaxfer.run(tiny_config("row_mlp", steps=1), folder / "bare", quiet=True)
    return folder


def test_scores_beside_the_oracle(runs, capsys):
    folders = [str(runs / "a"), str(runs / "b")]
    found = select(folders)
    for run in folders[:1]:
        # The target's inputs are the source's here, with those that its validation split is drawn from.
        train, val = (jaxfer.features(run, split=split, quiet=True).arrays() for split in ("train", "val"))
        logits = [
            jaxfer.features(run, unit="head", split=split, quiet=True).arrays()["features"].astype(np.float64)
            for split in ("train", "val")
        ]
        wanted = scores.entropy(softmax(np.concatenate(logits), -1))
        assert found.runs[run]["entropy"] == pytest.approx(wanted, rel=1e-5)
        both = np.concatenate([train["features"], val["features"]])
        weights = scores.importance_weights(train["features"], both, val["features"])
        losses = -np.log(softmax(logits[1], -1)[np.arange(len(logits[1])), val["label"]])
        assert found.runs[run]["weighted_risk"] == pytest.approx(scores.weighted_risk(weights, losses), rel=1e-3)
        assert found.runs[run]["dev"] == pytest.approx(scores.deep_embedded_validation(weights, losses), rel=1e-2)
        assert found.runs[run]["val"] == pytest.approx(jaxfer.evaluate(run)["accuracy"])
        assert found.runs[run]["oracle"] == jaxfer.evaluate(run, split="test")["accuracy"]
    assert set(found.chosen) == {"entropy", "snd", "weighted_risk", "dev", "val", "oracle"}
    assert found.chosen["entropy"] == min(folders, key=lambda run: found.runs[run]["entropy"])
    assert found.chosen["snd"] == max(folders, key=lambda run: found.runs[run]["snd"])
    assert main(["select", *folders]) == 0
    out = capsys.readouterr().out
    assert f"oracle chooses {found.chosen['oracle']} (on the target's labels, accuracy on the target" in out
    assert f"dev chooses {found.chosen['dev']} (without the target's labels" in out


def test_sealed_labels_stay_sealed(runs, capsys):
    found = select([str(runs / "sealed")])
    assert found.runs[str(runs / "sealed")]["oracle"] is None and "oracle" not in found.chosen
    assert main(["select", str(runs / "sealed")]) == 0
    assert "sealed" in capsys.readouterr().out


def test_what_is_refused(runs):
    with pytest.raises(InputError, match="bare: its config has no unlabelled stream 'target'"):
        select([str(runs / "bare")])
    with pytest.raises(InputError, match="expected folders of finished runs"):
        select([])
    assert main(["select", str(runs / "a"), "--config.lr=1"]) == 2
