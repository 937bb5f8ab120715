"""`jaxfer fewshot` on runs and checkpoints."""

from __future__ import annotations

import numpy as np
import pytest

import jaxfer
from jaxfer.commands import main
from jaxfer.errors import InputError
from jaxfer.evals import episodes
from tests.experiments import tiny_config

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fewshot") / "run"
    jaxfer.run(tiny_config("row_mlp", steps=4, lr=1e-2), folder, quiet=True)
    return folder


def test_a_whole_split(run):
    found = jaxfer.fewshot(run, classifiers=("knn", "zero-shot", "tip-f"))
    assert found["zero-shot"]["accuracy"] == pytest.approx(jaxfer.evaluate(run)["accuracy"], abs=1e-6)
    assert set(found) == {"knn", "zero-shot", "tip-f"} and 0 <= found["knn"]["accuracy"] <= 1


def test_the_memory_of_tip_adapter(run, capsys):
    """Without a weight it says nothing; a heavy one alone decides."""
    names = ("zero-shot", "tip")
    none = jaxfer.fewshot(run, classifiers=names, alpha=0.0)
    assert none["tip"] == none["zero-shot"]
    x, of = (jaxfer.features(run, split=split).arrays() for split in ("val", "train"))
    labels, units = of["label"], [episodes.unit(part["features"].astype(np.float64)) for part in (x, of)]
    votes = np.exp(-2.0 * (1 - units[0] @ units[1].T)) @ np.eye(3)[labels]
    heavy = jaxfer.fewshot(run, classifiers=names, alpha=1e6, beta=2.0)
    assert heavy["tip"]["accuracy"] == (votes.argmax(1) == x["label"]).mean()
    assert main(["fewshot", str(run), "--classifiers=tip", "--alpha=1e6", "--beta=2"]) == 0
    assert f"{heavy['tip']['accuracy']:.4f}" in capsys.readouterr().out


def test_episodes_of_a_run(run, capsys):
    given = dict(split="train", way=2, shot=2, queries=3, episodes=12)
    found = jaxfer.fewshot(run, **given)
    assert found == jaxfer.fewshot(run, **given) and found["prototypes"]["half_width"] > 0
    assert found != jaxfer.fewshot(run, **given, seed=1)
    options = [f"--{name}={value}" for name, value in given.items()]
    assert main(["fewshot", str(run), *options]) == 0
    out = capsys.readouterr().out
    assert out.startswith("train, 2-way 2-shot, 12 episodes")
    assert "{accuracy:.4f} ± {half_width:.4f}".format(**found["knn"]) in out


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(classifiers=("kn",)), "--classifiers: expected some of .*, found 'kn'; nearest: 'knn'"),
        (dict(classifiers=()), "found none"),
        (dict(alpha=2.0), "--alpha: is of tip and tip-f, found --classifiers=prototypes,.*; name one there"),
        (dict(beta=-1.0, classifiers=("tip",)), "--beta: expected a finite number, 0 or more, found -1.0"),
        (dict(way=1), "--way: expected 2 classes or more, found 1"),
        (dict(way=2, shot=0), "--shot: expected a positive integer, found 0"),
        (dict(split="train"), "the training split is the support itself"),
        (dict(way=2, shot=500), "expected 2 classes with 515 examples each, found 0"),
    ],
)
def test_nonsense(run, given, message):
    with pytest.raises(InputError, match=message):
        jaxfer.fewshot(run, **given)


def test_several_runs_are_fused(run, tmp_path):
    jaxfer.run(tiny_config("row_mlp", steps=4, lr=1e-2, seed=1), tmp_path / "other", quiet=True)
    both = [jaxfer.features(folder, split="val").arrays() for folder in (run, tmp_path / "other")]
    support = [jaxfer.features(folder, split="train").arrays() for folder in (run, tmp_path / "other")]
    x, of = (
        np.concatenate([episodes.unit(part["features"].astype(np.float64)) for part in parts], 1)
        for parts in (both, support)
    )
    scores = episodes.nearest_mean(episodes.Support(of, support[0]["label"], 3), x, None)
    found = jaxfer.fewshot([run, tmp_path / "other"], classifiers=("prototypes",))
    assert found["prototypes"]["accuracy"] == (scores.argmax(1) == both[0]["label"]).mean()
    with pytest.raises(InputError, match="zero-shot reads the outputs of one model, found 2"):
        jaxfer.fewshot([run, run], classifiers=("zero-shot",))
    jaxfer.run(tiny_config("vit_cls", steps=1), tmp_path / "images", quiet=True)
    with pytest.raises(InputError, match="images: its val examples are not those of"):
        jaxfer.fewshot([run, tmp_path / "images"], quiet=True)


def test_values_are_no_classes(tmp_path):
    config = tiny_config("resnet_basic", method="probe", options={"fit": "ridge"})
    config.data.target, config.task.name = "value", "regression"
    jaxfer.run(config, tmp_path / "run", quiet=True)
    with pytest.raises(InputError, match="needs one class for each example"):
        jaxfer.fewshot(tmp_path / "run")
