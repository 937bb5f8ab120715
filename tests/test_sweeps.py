"""The table and the picture of a sweep."""

from __future__ import annotations

import json
import math
import textwrap

import matplotlib.image
import numpy as np
import pytest
from etils import epath

import jaxfer
from jaxfer.cli import main
from jaxfer.errors import InputError
from jaxfer.evals.intervals import mean_interval
from jaxfer.report import plots
from jaxfer.sweeps import Row

CONFIG = """
    import jaxfer.config
    from jaxfer.sweeps import Cell

    def get_config(arg=""):
        config = jaxfer.config.base()
        config.model = dict(name="resnet", stage_sizes=(1,), width=4, stem="cifar", image=(4, 4, 1))
        config.data = dict(source="synthetic", image=(4, 4, 1), examples=40)
        config.update(batch_size=4, steps=2, method=arg or "full")
        if arg:
            config.init = "sibling:source"
        return config

    def sweep():
        yield Cell(name="source")
        for method in ("probe", "full"):
            for seed in (0, 1, 2):
                yield Cell(name=f"{method}-{seed}", arg=method, overrides={"seed": seed}, group=method)
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(textwrap.dedent(CONFIG))
    return str(path)


def test_table_of_a_sweep_and_of_the_same_sweep_again(config, tmp_path, capsys):
    rows = jaxfer.sweep(config, tmp_path / "sweep", overrides={"steps": "3"})
    assert [row.group for row in rows] == ["probe", "full"]
    results = {p.parent.name: json.loads(p.read_text()) for p in (tmp_path / "sweep").glob("*/result.json")}
    assert results["source"]["steps"] == 2, "a preparation is not touched by the command line's overrides"
    for row in rows:
        scores = [results[f"{row.group}-{seed}"]["metrics"]["val"]["accuracy"] for seed in range(3)]
        assert row.scores == tuple(scores) and row.mean == pytest.approx(np.mean(scores))
    assert rows[0].params_trainable == results["probe-0"]["cost"]["params_trainable"]
    assert results["probe-1"]["cost"]["compile_seconds"] == 0, "seeds share one program"
    table = (tmp_path / "sweep" / "table.csv").read_text()
    assert table.splitlines()[0] == "method,mean,interval95,seconds,params_trainable,scores"
    assert (tmp_path / "sweep" / "table.md").read_text().startswith("| method | val accuracy |")
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "sweep").glob("*/result.json")}
    assert jaxfer.sweep(config, tmp_path / "sweep", overrides={"steps": "3"}) == rows
    assert stamps == {p: p.stat().st_mtime_ns for p in (tmp_path / "sweep").glob("*/result.json")}
    assert (tmp_path / "sweep" / "table.csv").read_text() == table
    assert "val accuracy" in capsys.readouterr().out


def test_bad_sweeps_are_refused_before_anything_runs(config, tmp_path, capsys):
    assert main(["sweep", config, "--workdir", str(tmp_path / "sweep"), "--config.stepps=3"]) == 2
    assert capsys.readouterr().err.startswith("error: unknown field config.stepps")
    assert not (tmp_path / "sweep").exists()
    with pytest.raises(InputError, match="expected a config file with sweep"):
        jaxfer.sweep("configs/ladder.py", tmp_path / "sweep")


def test_t_interval_by_hand():
    """Three draws: mean 2, standard deviation 1, t(0.975, 2) = 4.302653."""
    mean, half = mean_interval([1.0, 2.0, 3.0])
    assert mean == 2.0 and half == pytest.approx(4.302652729911275 / math.sqrt(3), rel=1e-9)
    assert math.isnan(mean_interval([0.5])[1])


def test_intervals_cover():
    rng = np.random.default_rng(0)
    hits = 0
    for draw in rng.normal(0.7, 0.05, (1000, 5)):
        mean, half = mean_interval(draw)
        hits += abs(mean - 0.7) <= half
    assert 920 <= hits <= 980


def test_picture_has_a_methods_own_colour_and_every_seed(tmp_path):
    rows = [
        Row(group=g, scores=(0.5, 0.6, 0.7), mean=0.6, interval=0.2, seconds=1.0, params_trainable=3)
        for g in ("probe", "mine")
    ]
    plots.methods(rows, epath.Path(tmp_path / "a.png"), "val accuracy")
    pixels = matplotlib.image.imread(str(tmp_path / "a.png"))[..., :3]
    for group in ("probe", "mine"):
        wanted = np.array([int(plots.colour(group)[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        assert (np.abs(pixels - wanted).max(-1) < 0.01).sum() > 200
    assert plots.colour("mine") == plots.colour("mine") != plots.colour("probe")
