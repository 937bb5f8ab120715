"""The cut of a stage: where it is, why there is none, and that steps from there are those of the whole network."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import jaxfer
from jaxfer.config import resolve
from jaxfer.config.experiment import Experiment, ParallelConfig
from jaxfer.data.encoding import Draw
from jaxfer.data.split import Array
from jaxfer.parallel.placement import placement
from jaxfer.training.cut import cut
from jaxfer.training.cut import notes as notes_of
from jaxfer.training.feature_store import Store
from jaxfer.training.preflight import preflight
from tests.experiments import tiny_config, tiny_stage
from tests.training.test_cached import ONE, alike, folder, images, of, probe, run

pytestmark = pytest.mark.system

__all__ = ("folder",)
DATA = Path(__file__).parents[1] / "data"
QUICK = dict(steps=4, eval_every=4)
TOP = QUICK | dict(method="full", freeze_units=2, lr=1e-3)


@pytest.mark.parametrize(
    ("case", "fields", "values"),
    [
        ("vit_cls", TOP, 7 * 12),
        ("bert_mean", TOP, 7 * 12),
        pytest.param("mobilenet_v1", TOP, 6 * 7 * 6, marks=pytest.mark.rest),
        ("resnet_basic", TOP | {"freeze_units": 3}, 5 * 4 * 12),
    ],
)
def test_upper_units_are_trained_on_what_the_lower_ones_give(case, fields, values, tmp_path):
    config = lambda: probe(case, **fields)  # noqa: E731
    found = cut(tiny_stage(case, **fields), ONE, resolve(config()))
    assert (found.at, found.values) == (tiny_stage(case).spec.port.units[fields["freeze_units"]], values)
    kept = alike(config, tmp_path)
    assert kept["cost"]["features"]["computed"] == 4 * 8 + kept["examples"]["val"]


@pytest.mark.parametrize(
    ("case", "task", "data", "values"),
    [
        ("bert_mean", "tagging", dict(source="conll", path=str(DATA / "tagged")), 7 * 12),
        ("vit_cls", "segmentation", dict(source="masks", path=str(DATA / "masked")), 7 * 12),
    ],
)
def test_heads_of_tokens_and_pixels_are_trained_on_what_they_read(case, task, data, values, tmp_path):
    def config():
        return probe(case, task=dict(name=task), data=data, **QUICK)

    shown = str(jaxfer.show(config()))
    assert f"features: of unit 'head', computed once: {values} values of" in shown
    alike(config, tmp_path)


def why(case="vit_cls", *, where=ONE, augment=(), cache="auto", stream=None, method="probe", **fields):
    config = tiny_config(case, method=method, cache=cache, **fields)
    config.data.augment = augment
    if stream:
        config.stream.other = stream
    return cut(tiny_stage(case, method=method, **fields), where, resolve(config)).why


@pytest.mark.parametrize(
    ("case", "fields", "reason"),
    [
        ("vit_cls", dict(method="full"), "stem/.* is trained, in unit 'stem'"),
        ("vit_cls", dict(method="lora"), "lora/.* is trained, in unit 'block_0'"),
        ("vit_cls", TOP | {"freeze_units": 1}, "block_0/.* is trained, in unit 'block_0'"),
        ("vit_cls", dict(method="l2sp", freeze_units=2), "^$"),
        ("resnet_basic", dict(method="side_tuning"), "method 'side_tuning' needs the inputs"),
    ],
)
def test_why_not(case, fields, reason):
    assert re.search(reason, why(case, **fields))


def test_why_not_by_the_setting(monkeypatch):
    four = placement(ParallelConfig(devices=4, mode="pmap"), [8])
    assert why() == ""
    assert why(adds=("ema",)) == ""
    assert why(cache="off") == "config.cache is off"
    assert why(augment=("flip",)) == "the examples are augmented (flip)"
    assert why(augment=("flip",), cache="views") == ""
    assert why(stream={"rows": "same"}) == ""  # which this stage does not read
    for stream in ({"rows": "same", "task": "classification"}, {"source": "synthetic"}):
        assert why(stream=stream) == "other streams or networks read the same batches"
    assert why(where=four).startswith("pmap and several processes")
    monkeypatch.setenv("JAXFER_CACHE", "off")
    assert why() == "JAXFER_CACHE is off"


def test_views_are_drawn_once_and_of_every_seed_the_same(tmp_path):
    """Each step reads one of them; evaluations read the examples as they are."""

    def config(**fields):
        source = dict(init=f"run:{tmp_path / 'source'}", head="reset")
        made = probe("vit_cls", cache="views", views=3, **source, **fields)
        made.data.augment = ("flip", "crop")
        return made

    run(probe("vit_cls", method="full", steps=1), tmp_path / "source")
    kept, lines = run(config(), tmp_path / "kept")
    sizes = kept["examples"]
    assert kept["cost"]["features"]["computed"] == 3 * sizes["train"] + sizes["val"]
    again, repeated = run(config(), tmp_path / "again")
    assert [line.get("loss") for line in repeated] == [line.get("loss") for line in lines]
    other, _ = run(config(seed=1), tmp_path / "other")
    assert again["cost"]["features"]["computed"] == other["cost"]["features"]["computed"] == 0
    assert Experiment.identity(resolve(config()))["views"] == 3


def test_a_view_is_the_features_of_the_augmented_example():
    kept, state = of(views=(3, ("flip",)))
    split = images()
    values = kept.split(split, state, np.array([0, 5])).columns["features"].values
    assert values.shape == (27, 12) and kept.computed == 6
    encoding = kept.plain.spec.port.encoding
    for view in range(3):
        draw = Draw(seed=0, step=0, positions=np.array([9 * view + 5]), augment=("flip",))
        batch = encoding.reader(split)(np.array([5]), None, draw)
        read = kept.plain.spec.port.forward(state.params, state.model_state, batch, taps=("features",)).taps["features"]
        np.testing.assert_allclose(values[9 * view + 5], read[0], rtol=1e-5, atol=1e-6)
    assert not np.array_equal(values[5], values[9 + 5]) or not np.array_equal(values[5], values[18 + 5])
    encoding, draw = kept.stage.spec.port.encoding, Draw(seed=2, step=7, positions=np.arange(8))
    read = encoding.reader(split.with_column("features", Array(np.arange(27)[:, None], "features")))
    seen = read(np.full(8, 5), None, draw)["features"][:, 0]
    assert set(seen) == {5, 14, 23}
    np.testing.assert_array_equal(read(np.arange(9))["features"][:, 0], np.arange(9))


def test_a_single_view_is_augmented_too():
    (kept, state), (one, _) = of(), of(views=(1, ("flip",)))
    plain, view = (x.split(images(), state, np.arange(9)).columns["features"].values for x in (kept, one))
    assert plain.shape == view.shape and not np.array_equal(plain, view)
    np.testing.assert_array_equal(one.split(images(), state).columns["features"].values, plain)  # an evaluation


def test_bfloat16_is_what_float32_rounds_to():
    (kept, state), (half, _) = of(), of(dtype="bfloat16")
    values = [x.split(images(), state).columns["features"].values for x in (kept, half)]
    np.testing.assert_array_equal(values[1], values[0].astype("bfloat16"))
    assert half._store(images())[0].row.itemsize == 16 + 12 * 2


def test_a_stage_of_less_than_an_epoch_computes_what_it_reads(tmp_path):
    kept, _ = run(probe("vit_cls", steps=2), tmp_path / "run")
    assert kept["cost"]["features"]["computed"] == 2 * 8 + kept["examples"]["val"]


def test_texts_take_the_room_of_their_tokens(tmp_path):
    """A row that was damaged where there are no tokens is written whole."""
    store = Store(folder=tmp_path / "store", count=3, shape=(64, 512))
    store.open({})
    values = np.zeros((3, 64, 512), np.float32)
    values[:, :2] = 1 + np.arange(3)[:, None, None]
    store.write(np.arange(3), values)
    assert (tmp_path / "store" / "rows").stat().st_blocks * 512 < 3 * 4 * 2 * 512 * 4  # in memory until it is read
    assert not len(store.missing(np.arange(3)))
    with open(tmp_path / "store" / "rows", "r+b") as file:
        file.seek(2 * store.row.itemsize - 40)
        file.write(b"x")
    assert store.missing(np.arange(3)).tolist() == [1]
    store.write(np.array([1]), values[1:2])
    assert not len(store.missing(np.arange(3)))
    np.testing.assert_array_equal(store.values, values)


def test_a_run_says_why_features_are_computed_in_every_step_where_nothing_below_is_trained(
    tmp_path, capsys, monkeypatch
):
    why = "what it reads is computed in every step: the examples are augmented (flip)"
    note = f"nothing below the output layer is trained, but {why}"

    def notes(*, augment=("flip",), stages=(), **fields):
        config = probe("vit_cls", **fields)
        config.data.augment, config.stages = augment, tuple(stages)
        config.stage = dict(stages)
        ready = preflight(config)
        return notes_of(ready.stages, ready.where, ready.experiment)

    full = {"method": "full"}
    assert notes() == notes(adds=("ema",)) == (note,)
    assert notes(augment=()) == notes(**full) == notes(cache="off") == ()
    assert notes(stages={"full": full, "probe": {}, "again": {}}) == (f"stage probe: {note}",), "once"
    config = probe("vit_cls", steps=1, eval_every=0)
    config.data.augment = ("flip",)
    jaxfer.run(config, tmp_path / "run")
    assert capsys.readouterr().err.splitlines().count(f"note: {note}") == 1
    monkeypatch.setenv("JAXFER_CACHE", "off")
    assert notes() == ()
