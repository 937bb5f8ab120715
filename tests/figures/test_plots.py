"""The pictures: the same bytes twice, every method to be seen and named, nothing cut off."""

from __future__ import annotations

import itertools
import math
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import matplotlib
import matplotlib.image
import numpy as np
import pytest
from etils import epath

from jaxfer.errors import InputError
from jaxfer.figures import look, placing, plots

NAMES = ("scratch", "probe", "full", "probe+full", "lora")
TWELVE = tuple(f"method-{i:02d}-of-thirty-characters" for i in range(12))
COUNTS = (1, 5, 20, 100)


def scores_of(names, seeds=5):
    rng = np.random.default_rng(0)
    return {name: list(0.7 + 0.02 * i + rng.normal(0, 0.02, seeds)) for i, name in enumerate(names)}


def draw_methods(names, path, change=lambda values: values):
    plots.methods({n: change(v) for n, v in scores_of(names).items()}, path, "accuracy", baselines={"majority": 0.68})


def draw_learning_curves(names, path, change=lambda values: values):
    steps = (0, 10, 20)
    finals = {name: change(values) for name, values in scores_of(names).items()}
    plots.learning_curves(
        {n: [(steps, (0.1, v - 0.1, v)) for v in values] for n, values in finals.items()}, path, "acc"
    )


def draw_labels(names, path, change=lambda values: values):
    scores = {n: {c: change([x - 0.3 / c for x in v]) for c in COUNTS} for n, v in scores_of(names).items()}
    plots.labels(scores, path, "accuracy", baselines={"majority": 0.1, "pixels": {1: 0.4, 100: 0.66}})


def draw_cost(names, path, change=lambda values: values):
    points = {
        name: plots.Point(scores=change(values), params_trainable=10 ** (3 + i % 5), seconds=30.0 + 7 * i)
        for i, (name, values) in enumerate(scores_of(names).items())
    }
    plots.cost(points, path, "accuracy")


PICTURES = (draw_methods, draw_learning_curves, draw_labels, draw_cost)


def pixels_of(path):
    return np.round(255 * matplotlib.image.imread(str(path))[..., :3]).astype(int)


def texts_of(path):
    return [text.text for text in ElementTree.parse(str(path)).iter("{http://www.w3.org/2000/svg}text")]


def count_of(pixels, colour):
    return int((np.abs(pixels - [int(colour[i : i + 2], 16) for i in (1, 3, 5)]).max(-1) <= 2).sum())


@pytest.mark.parametrize("draw", PICTURES)
def test_same_bytes_again_whatever_the_settings_and_no_leaks(draw, tmp_path):
    before = dict(matplotlib.rcParams)
    draw(NAMES, epath.Path(tmp_path / "a"))
    assert dict(matplotlib.rcParams) == before
    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "path", "axes.facecolor": "black"}):
        draw(NAMES, epath.Path(tmp_path / "b.v2.png"))
    assert sorted(os.listdir(tmp_path)) == ["a.png", "a.svg", "b.v2.png", "b.v2.svg"]
    for suffix in ("png", "svg"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.v2.{suffix}").read_bytes()
    assert "matplotlib.org" not in re.sub("<!--.*?-->|xmlns.*", "", (tmp_path / "a.svg").read_text())


def test_same_bytes_in_another_process_without_pyplot(tmp_path):
    draw_cost(TWELVE, tmp_path / "here")
    code = (
        "import sys; from tests.figures import test_plots as t; t.draw_cost(t.TWELVE, sys.argv[1]);"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "there")], env=environment, check=True)
    for suffix in ("png", "svg"):
        assert (tmp_path / f"here.{suffix}").read_bytes() == (tmp_path / f"there.{suffix}").read_bytes()


@pytest.mark.parametrize("draw", PICTURES)
@pytest.mark.parametrize("names", [("full",), (*NAMES, "mine"), TWELVE], ids=len)
def test_every_method_is_seen_and_named_and_nothing_is_cut_off(draw, names, tmp_path):
    draw(names, tmp_path / "a.png")
    pixels, texts = pixels_of(tmp_path / "a.png"), texts_of(tmp_path / "a.svg")
    for name, style in look.styles(names).items():
        assert count_of(pixels, style.colour) > 60, name
        assert name in texts
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    assert (edge == 255).all()


@pytest.mark.parametrize("draw", PICTURES)
def test_one_seed_equal_scores_and_diverged_runs(draw, tmp_path):
    draw(NAMES, tmp_path / "one", lambda values: values[:1])
    draw(NAMES, tmp_path / "equal", lambda values: [0.7] * 5)
    draw(NAMES, tmp_path / "some", lambda values: [math.nan, *values[1:3], math.inf])
    draw(NAMES, tmp_path / "all", lambda values: [math.nan] * 3)
    runs = len(COUNTS) if draw is draw_labels else 1
    for name in NAMES:
        assert name in texts_of(tmp_path / "one.svg") and name in texts_of(tmp_path / "equal.svg")
        assert f"{name} ({2 * runs} diverged)" in texts_of(tmp_path / "some.svg")
        assert f"{name} ({3 * runs} diverged)" in " ".join(texts_of(tmp_path / "all.svg"))
        assert count_of(pixels_of(tmp_path / "some.png"), look.colour(name)) > 60
        if draw is not draw_learning_curves and name != "scratch":  # the edges of letters are grey too
            assert count_of(pixels_of(tmp_path / "all.png"), look.colour(name)) == 0


def test_styles():
    assert look.colour("full") == "#D55E00" and look.colour("probe+full") == look.colour("lp_ft") == "#CC79A7"
    assert look.colour("mine") == look.SPARE[7], "crc32 0x69a8d393, the same on every machine"
    for names in (TWELVE, [*look.COLOURS, *TWELVE], [f"arm {i}" for i in range(60)]):
        assert len({style.colour for style in look.styles(names).values()}) == len(names)
        assert look.styles(names) == look.styles(names[::-1])
    assert all(
        look.styles([*look.COLOURS, "mine"])[n].colour == c for n, c in look.COLOURS.items() if n != "probe+full"
    )
    assert look.styles(["full"])["full"].marker == "o" != look.styles(["lora"])["lora"].marker


def test_methods_are_ordered_and_written_out(tmp_path):
    """0.5, 0.6, 0.7: mean 0.6, standard deviation 0.1, t(0.975, 2) = 4.302653, half-width 0.2484."""
    scores = {"probe": [0.5, 0.6, 0.7], "full": [0.9], "lora": [0.8, math.nan]}
    for best, order in (("max", ["full", "lora", "probe"]), ("min", ["probe", "lora", "full"])):
        plots.methods(scores, tmp_path / "a", "loss", "full", {"majority": 0.05}, best)
        texts = texts_of(tmp_path / "a.svg")
        assert {"0.600 ± 0.248", "0.900", "0.800", "0.050", "full (reference)", "majority"} <= set(texts)
        names = [text.split()[0] for text in texts]
        assert [name for name in names if name in scores] == order
        assert f"loss ({'higher' if best == 'max' else 'lower'} is better)" in texts


@pytest.mark.parametrize("counts", [COUNTS, (5,), (1, 80, 90, 1000)], ids=str)
def test_ticks_of_labels_are_the_counts(counts, tmp_path):
    plots.labels({"probe": dict.fromkeys(counts, [0.5, 0.6]), "full": {counts[0]: [0.7]}}, tmp_path / "a", "accuracy")
    groups = ElementTree.parse(str(tmp_path / "a.svg")).iter("{http://www.w3.org/2000/svg}g")
    ticks = ["".join(group.itertext()).strip() for group in groups if group.get("id", "").startswith("xtick_")]
    assert ticks == [f"{count:,}" for count in counts]


def test_baseline_off_the_scale_is_told(tmp_path):
    plots.labels({"full": {1: [0.8], 10: [0.9]}}, tmp_path / "a", "accuracy", {"majority": 0.1, "pixels": {1: 0.75}})
    assert "pixels" in texts_of(tmp_path / "a.svg") and "majority (0.100, below)" in texts_of(tmp_path / "a.svg")
    plots.labels({"full": {1: [0.1, 0.11]}}, tmp_path / "a", "loss", {"majority": 2.0})
    assert "majority (2.000, above)" in texts_of(tmp_path / "a.svg")


def test_cost_without_trainable_parameters(tmp_path):
    trainable = {"nearest mean": 0, "probe": 650, "full": 2_000_000}
    points = {n: plots.Point(scores=[0.7], params_trainable=p, seconds=p / 1000) for n, p in trainable.items()}
    plots.cost(points, tmp_path / "a", "accuracy")
    texts = texts_of(tmp_path / "a.svg")
    assert texts[:5] == ["0", "1k", "10k", "100k", "1M"] and "nearest mean" in texts
    points["probe"]["seconds"] = math.nan
    with pytest.raises(InputError, match="expected training seconds of 0 or more"):
        plots.cost(points, tmp_path / "a", "accuracy")


def test_window_by_hand():
    """Seeds 0.6 to 0.8, span 0.2: 0.5 is drawn to scale, 0.1 isn't; margins of 6 %."""
    assert plots._window([[0.6], [0.8]], [0.5, 0.1]) == pytest.approx((0.5 - 0.018, 0.8 + 0.018))
    low, high = plots._window([[0.7, 0.8]], [])
    assert (low, high) == pytest.approx((0.6 - 0.018, 0.9 + 0.018)), "0.75 ± 0.635 reaches one span beyond the seeds"


def test_names_at_the_ends_are_apart_and_nearest_to_their_lines():
    assert placing.spread([0.5, 0.9, 0.52], 0.1) == pytest.approx([0.46, 0.9, 0.56])
    assert placing.spread([1.0, 1.0], 0.2) == pytest.approx([0.7, 0.9])
    assert placing.spread([0.3], 0.1) == pytest.approx([0.3])


def test_names_in_the_margin_do_not_overlap(tmp_path):
    draw_labels(TWELVE, tmp_path / "a", lambda values: [0.7, 0.7])
    texts = ElementTree.parse(str(tmp_path / "a.svg")).iter("{http://www.w3.org/2000/svg}text")
    heights = sorted(float(re.search(r"[ (]([\d.]+)\)", t.get("transform"))[1]) for t in texts if t.text in TWELVE)
    assert len(heights) == 12 and min(b - a for a, b in itertools.pairwise(heights)) >= 13


def test_mean_curve_by_hand():
    """The second seed runs to step 20: the mean ends with the first, and is linear between a seed's steps."""
    steps, mean = plots._mean_curve([((0, 10), (0.0, 1.0)), ((0, 5, 20), (0.0, 1.0, 4.0))])
    assert steps.tolist() == [0, 5, 10] and mean == pytest.approx([0, 0.75, 1.5])


def test_bad_input(tmp_path):
    for draw in (plots.methods, plots.learning_curves, plots.labels, plots.cost):
        with pytest.raises(InputError, match="expected scores of at least one method"):
            draw({}, tmp_path / "a", "accuracy")
    with pytest.raises(InputError, match="found 'ful'; nearest: 'full'"):
        plots.methods({"full": [1.0]}, tmp_path / "a", "accuracy", reference="ful")
    with pytest.raises(InputError, match="best='max' or best='min', found 'most'"):
        plots.methods({"full": [1.0]}, tmp_path / "a", "accuracy", best="most")
    with pytest.raises(InputError, match="full: expected one value per step, found 2 steps, 1 values"):
        plots.learning_curves({"full": [((0, 1), (0.5,))]}, tmp_path / "a", "accuracy")
    with pytest.raises(InputError, match="1 or more labels a class, found the counts"):
        plots.labels({"full": {0: [0.5]}}, tmp_path / "a", "accuracy")
    assert not os.listdir(tmp_path)
