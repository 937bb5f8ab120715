"""`jaxfer fewshot` on runs and checkpoints."""

from __future__ import annotations

import pytest

import jaxfer
from jaxfer.commands import main
from jaxfer.errors import InputError
from tests.experiments import tiny_config

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fewshot") / "run"
    jaxfer.run(tiny_config("row_mlp", steps=4, lr=1e-2), folder, quiet=True)
    return folder


def test_a_whole_split(run):
    found = jaxfer.fewshot(run, classifiers=("knn", "zero-shot"))
    assert found["zero-shot"]["accuracy"] == pytest.approx(jaxfer.evaluate(run)["accuracy"], abs=1e-6)
    assert set(found) == {"knn", "zero-shot"} and 0 <= found["knn"]["accuracy"] <= 1


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
        (dict(way=1), "--way: expected a positive integer, 2 at least, found 1"),
        (dict(way=2, shot=0), "--shot: expected a positive integer, found 0"),
        (dict(split="train"), "the training split is the support itself"),
        (dict(way=2, shot=500), "expected 2 classes with 515 examples each, found 0"),
    ],
)
def test_nonsense(run, given, message):
    with pytest.raises(InputError, match=message):
        jaxfer.fewshot(run, **given)


def test_values_are_no_classes(tmp_path):
    config = tiny_config("resnet_basic", method="probe", options={"fit": "ridge"})
    config.data.target, config.task.name = "value", "regression"
    jaxfer.run(config, tmp_path / "run", quiet=True)
    with pytest.raises(InputError, match="needs one class for each example"):
        jaxfer.fewshot(tmp_path / "run")
