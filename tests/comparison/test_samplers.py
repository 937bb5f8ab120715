"""Which settings an arm tries: the default first, draws between the ends of its grid, and what is refused."""

from __future__ import annotations

import json
import math
import re

import pytest

import jaxfer
from jaxfer.commands import main
from jaxfer.comparison.protocol import make_design
from jaxfer.comparison.samplers import Grid, Random, draw, make
from jaxfer.errors import InputError
from jaxfer.sweeps import samplers
from jaxfer.sweeps.samplers.random import Drawn
from tests.comparison import example

SPACES = {"lr": (1e-3, 1e-4, 1e-2), "weight": (0.5, 0.0, 2.0), "fixed": (7.0,)}


def test_random_draws_lie_between_the_ends_of_each_space():
    first, *others = Random(3).trials("full", SPACES, 200)
    assert first == {"lr": 1e-3, "weight": 0.5, "fixed": 7.0}
    for number, setting in enumerate(others, 1):
        drawn = Drawn(3, number)
        assert setting == {
            "lr": drawn.loguniform("lr", 1e-4, 1e-2),
            "weight": drawn.uniform("weight", 0, 2),
            "fixed": 7,
        }
    below = sum(setting["lr"] < 1e-3 for setting in others) / len(others)
    assert abs(below - 0.5) < 4 * 0.5 / math.sqrt(len(others)), "as many in each decade"
    assert list(others[0]) == list(SPACES), "in the order of the spaces"


def test_more_trials_keep_the_first_ones_and_an_hparam_is_drawn_by_its_name():
    few, many = (Random(1).trials("full", SPACES, count) for count in (4, 9))
    assert many[:4] == few and Random(2).trials("full", SPACES, 4)[1:] != few[1:]
    alone = Random(1).trials("probe", {"lr": SPACES["lr"]}, 4)
    assert [setting["lr"] for setting in alone] == [setting["lr"] for setting in few]


def test_nothing_to_tune_is_the_same_setting_in_each_trial():
    assert Random().trials("probe", {}, 3) == ({},) * 3 == Grid().trials("probe", {}, 3)
    assert Random().trials("adabn", {"lr": (0.0,)}, 3) == ({"lr": 0.0},) * 3
    assert draw(Drawn(0, 0), {"lr": (0.0,)}) == {"lr": 0.0}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "halving",
            {},
            "--sampler=halving: the arms of a comparison would have different numbers of steps, as its trials have; "
            "use grid, random, optuna",
        ),
        ("asha", {}, "--sampler=asha: the arms of a comparison would have different numbers of steps"),
        ("hyperband", {}, "--sampler=hyperband: the arms of a comparison would have different numbers of steps"),
        ("randm", {}, "--sampler=randm: no such sampler; nearest: 'random'"),
        ("random", {"sampler_seed": -1}, "--sampler-seed: expected a whole number from 0 on, found -1"),
        ("random", {"ask": 2}, "--ask: --sampler=random has no such option; leave it out, or use --sampler=optuna"),
        ("random", {"eta": 3}, "--eta: --sampler=random has no such option; leave it out"),
        ("random", {"trials": 3}, "--trials: each arm of a comparison has config.compare.trials; set --config.compare"),
    ],
)
def test_what_no_comparison_does_is_refused(name, options, message):
    with pytest.raises(InputError, match=re.escape(message)) as refused:
        make(name, **options)
    assert "\n" not in str(refused.value)


def test_the_sampler_that_is_meant(tmp_path, capsys):
    assert make() == Grid() and make("random", sampler_seed=4) == Random(4)
    spec = example.write(tmp_path)
    with pytest.raises(InputError, match="sampler: expected one that jaxfer.comparison.samplers.make makes"):
        jaxfer.compare(spec, tmp_path / "run", sampler=samplers.make("random", trials=2))
    assert main(["compare", spec, "--workdir", str(tmp_path / "run"), "--sampler=hyperband"]) == 2
    assert "different numbers of steps" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_the_protocol_names_the_sampler(tmp_path):
    spec, overrides = example.write(tmp_path), {"compare.trials": 3, "compare.seeds": 1}
    grid, random = (make_design(spec, overrides, sampler).record for sampler in (None, Random(5)))
    assert grid == make_design(spec, overrides, Grid()).record and "sampler" not in grid
    ends = {"scratch": {"lr": (3e-4, 1e-2)}, "probe": {"lr": (1e-3, 3e-2)}}
    assert random["sampler"] == {"name": "random", "seed": 5, "trials": 3, "ranges": ends}
    for arm, settings in random["arms"].items():
        expected = [Drawn(5, number).loguniform("lr", *ends[arm]["lr"]) for number in (1, 2)]
        assert settings == [grid["arms"][arm][0], *({"lr": value} for value in expected)]
    assert len(random["cells"]) == 6 and len({*random["cells"]} & {*grid["cells"]}) == 2, "the defaults"


@pytest.mark.system
def test_a_random_comparison_selects_what_it_drew(tmp_path, capsys):
    spec, folder = example.write(tmp_path), tmp_path / "run"
    argv = ["compare", spec, "--workdir", str(folder), "--config.steps=6", "--config.compare.seeds=2"]
    argv += ["--config.compare.trials=3", "--config.compare.grid.probe.lr=1e-2", "--sampler=random"]
    assert main([*argv, "--sampler-seed=5"]) == 0
    protocol, selection = (json.loads((folder / name).read_text()) for name in ("protocol.json", "selection.json"))
    for chosen in selection["selected"]:
        assert len(chosen["val"]) == 3 and chosen["val"][chosen["trial"]] == max(chosen["val"])
        assert chosen["setting"] == protocol["arms"][chosen["arm"]][chosen["trial"]]
    verdict = (folder / "verdict.md").read_text()
    assert "by random search, seed 5" in verdict
    assert "at most 36 steps at each number of labels, and took fewer: probe 12 at 3." in verdict, "one setting"
    assert main(["report", str(folder), "--out", str(tmp_path / "report.html")]) == 0
    assert "--sampler=random --sampler-seed=5" in (tmp_path / "report.html").read_text()
    capsys.readouterr()
    for more, differing in ((["--sampler-seed=6"], "arms, cells, sampler"), ([], "arms, cells, sampler")):
        assert main([*argv, *more]) == 2
        said = capsys.readouterr().err
        assert f"finished selection of another protocol (differing: {differing})" in said
    assert main(argv[:-1]) == 2, "the grid"
