"""`jaxfer merge`: an ordinary run of merged networks, chosen on val; what can't be merged is a line."""

from __future__ import annotations

import json

import numpy as np
import pytest

import jaxfer
from jaxfer.commands import main
from jaxfer.rules import flatten
from jaxfer.runs.finished import open_run
from tests.experiments import tiny_config


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A start, two runs from it, one of LoRA, one of another model, two that learn a number."""
    folder = tmp_path_factory.mktemp("merging")
    jaxfer.run(tiny_config("row_mlp", steps=2), folder / "start", quiet=True)
    fields = dict(steps=6, lr=3e-3, init=f"run:{folder}/start")
    for seed, name in enumerate(("one", "two")):
        jaxfer.run(tiny_config("row_mlp", seed=seed, **fields), folder / name, quiet=True)
    jaxfer.run(tiny_config("row_mlp", method="lora", **fields), folder / "low", quiet=True)
    jaxfer.run(tiny_config("series_cnn", steps=1), folder / "other", quiet=True)
    (folder / "numbers.csv").write_text("a,b\n" + "".join(f"{i},{i % 7}\n" for i in range(40)))
    values = tiny_config("row_mlp", steps=1)
    values.data = dict(source="csv_rows", path=str(folder / "numbers.csv"), numbers=("a",), label="b", target="value")
    values.data.test_fraction, values.model, values.task.name = 0.2, dict(name="row_mlp"), "regression"
    for seed, name in enumerate(("value", "values")):
        values.seed = seed
        jaxfer.run(values, folder / name, quiet=True)
    return folder


def leaves(folder):
    return {path: np.asarray(leaf, np.float64) for path, leaf in flatten(open_run(folder).state.params).items()}


def test_a_soup_is_a_run_of_the_mean(runs, capsys):
    folder = runs / "soup"
    result = jaxfer.merge([runs / "one", runs / "two", runs / "low"], rule="uniform", workdir=folder, quiet=True)
    low = open_run(runs / "low")
    plain = {path: np.asarray(leaf, np.float64) for path, leaf in flatten(low.stage.leave(low.state)[0]).items()}
    parts = [leaves(runs / "one"), leaves(runs / "two"), plain]
    for path, leaf in leaves(folder).items():
        np.testing.assert_allclose(leaf, np.mean([part[path] for part in parts], 0), rtol=0, atol=1e-6, err_msg=path)
    assert jaxfer.evaluate(folder) == result["metrics"]["val"]
    assert set(result["lineage"]["networks"]) == {"one", "two", "low"}
    assert main(["merge", *(str(runs / name) for name in ("one", "two", "low")), "--workdir", str(folder)]) == 0
    assert "accuracy" in capsys.readouterr().out, "the same command again says how it ended"


def test_the_strength_is_chosen_on_val(runs, capsys):
    assert main(["merge", str(runs / "one"), "--rule=wise_ft", "--config.options.strengths=0,0.5,1"]) == 0
    assert "best on val of 3: strength" in capsys.readouterr().err
    result = json.loads((runs / "merged-wise_ft/result.json").read_text())
    path, start, end = result["fits"]["train"]["path"], leaves(runs / "start"), leaves(runs / "one")
    assert max(row["accuracy"] for row in path) == result["metrics"]["val"]["accuracy"]
    a = result["fits"]["train"]["strength"]
    for name, leaf in leaves(runs / "merged-wise_ft").items():  # the head was kept: the classes are the same
        np.testing.assert_allclose(leaf, (1 - a) * start[name] + a * end[name], rtol=0, atol=1e-6, err_msg=name)


def test_weights_by_fisher_information_and_by_inputs(runs):
    """Both lie between the networks, parameter by parameter; a layer's Gram matrix is that of what it reads."""
    ends = [leaves(runs / name) for name in ("one", "two")]
    for rule in ("fisher", "regmean"):
        jaxfer.merge([runs / "one", runs / "two"], rule=rule, workdir=runs / rule, quiet=True)
    given = dict(rule="fisher", overrides={"options.expected": False}, quiet=True)
    jaxfer.merge([runs / "one", runs / "two"], workdir=runs / "labels", **given)
    by_labels, expected = leaves(runs / "labels"), leaves(runs / "fisher")
    for path, leaf in by_labels.items():
        low, high = np.minimum(ends[0][path], ends[1][path]), np.maximum(ends[0][path], ends[1][path])
        for found in (leaf, expected[path]):
            assert ((found >= low - 1e-6) & (found <= high + 1e-6)).all(), path
    assert any(np.abs(leaf - expected[path]).max() > 1e-5 for path, leaf in by_labels.items())
    mean = {path: (ends[0][path] + ends[1][path]) / 2 for path in ends[0]}
    merged = leaves(runs / "regmean")
    moved = {path for path in merged if not np.allclose(merged[path], mean[path], rtol=0, atol=1e-6)}
    assert moved and all(path.endswith("/kernel") for path in moved)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["{}/one", "{}/none"], "no run at {}/none: expected a folder that `jaxfer run` wrote"),
        (["{}/one", "--rule=soup"], "--rule: expected uniform, greedy, wise_ft"),
        (["{}/one", "{}/start", "--rule=ties"], "this rule needs one start: name it with --base"),
        (["{}/one", "{}/one"], "expected different runs, found"),
        (["{}/one", "{}/other"], "config.networks.other"),
        (
            ["{}/value", "{}/values", "--rule=fisher"],
            "config.options.expected: the default of `fisher` needs one class for each example; with False, labels are",
        ),
        (["{}/one", "--config.adds=ema"], "config.adds: add-ons change steps, and a merging takes none; remove ema"),
    ],
)
def test_what_cannot_be_merged_is_a_line(argv, message, runs, tmp_path, capsys):
    argv = [word.format(runs) for word in argv]
    assert main(["merge", *argv, "--workdir", str(tmp_path / "x")]) == 2
    error = capsys.readouterr().err
    assert message.format(runs) in error and error.count("\n") == 1
    assert not (tmp_path / "x").exists()
