"""`jaxfer ensemble`: means of probabilities and votes by hand, and runs of different models together."""

from __future__ import annotations

import numpy as np
import pytest

import jaxfer
from jaxfer.commands import main
from jaxfer.training.ensemble import combined
from tests.experiments import tiny_config

LOGITS = np.log([[[0.6, 0.3, 0.1]], [[0.6, 0.3, 0.1]], [[0.01, 0.98, 0.01]]])  # [runs, examples, classes]


def test_the_mean_probability_and_the_votes_may_differ():
    mean, votes = (np.exp(combined(LOGITS, "classification", how)) for how in ("probabilities", "votes"))
    np.testing.assert_allclose(mean, [[1.21 / 3, 1.58 / 3, 0.07]], rtol=1e-12)
    np.testing.assert_allclose(votes, [[(2 + 1.21 / 3) / 4, (1 + 1.58 / 3) / 4, 0.07 / 4]], rtol=1e-12)
    assert mean.argmax() == 1 and votes.argmax() == 0 and np.isclose(votes.sum(), 1)


def test_labels_are_answered_one_by_one_and_values_are_averaged():
    outputs = np.array([[[0.0, 2.0]], [[np.log(3), -50.0]]])
    chances = 1 / (1 + np.exp(-combined(outputs, "multilabel", "probabilities")))
    np.testing.assert_allclose(chances, [[0.625, (1 / (1 + np.exp(-2)) + np.exp(-50)) / 2]], rtol=1e-9)
    np.testing.assert_allclose(combined(outputs, "regression", "probabilities"), outputs.mean(0))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ensemble")
    for seed in (0, 1):
        jaxfer.run(tiny_config("row_mlp", steps=4, lr=1e-2, seed=seed), folder / f"run{seed}", quiet=True)
    jaxfer.run(tiny_config("series_cnn", steps=1), folder / "series", quiet=True)
    return folder


def test_runs_answer_together(runs, tmp_path, capsys):
    folders, table = [str(runs / "run0"), str(runs / "run1")], tmp_path / "answers.csv"
    found = jaxfer.ensemble(folders, predictions=table)
    assert found[folders[1]] == jaxfer.evaluate(folders[1])
    assert found["ensemble"].keys() == found[folders[0]].keys()
    single = [found[folder]["loss"] for folder in folders]
    assert found["ensemble"]["loss"] <= sum(single) / 2, "the loss is convex in the probabilities"
    assert len(table.read_text().splitlines()) == 1 + 4
    assert main(["ensemble", *folders, "--combine=votes"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("val, votes of 2 runs") and f"{found[folders[0]]['accuracy']:.4f}" in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["{}/run0"], "at least two different runs"),
        (["{}/run0", "{}/run1", "--combine=mean"], "--combine: expected probabilities or votes, found 'mean'"),
        (["{}/run0", "{}/none"], "no run at {}/none"),
        (["{}/run0", "{}/series"], "{}/series: its classes are not those of {}/run0"),
    ],
)
def test_what_cannot_answer_together_is_a_line(argv, message, runs, capsys):
    assert main(["ensemble", *(word.format(runs) for word in argv)]) == 2
    error = capsys.readouterr().err
    assert message.format(runs, runs) in error and error.count("\n") == 1
