"""Forecasting: metrics by hand, windows that stay in their split, and a run from a table to result.json."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfer
from jaxfer.conformance import tasks
from jaxfer.data.sources import csv_series
from jaxfer.data.split import Split
from jaxfer.errors import InputError
from jaxfer.registry import TASKS
from jaxfer.task import Mean
from jaxfer.tasks import forecast


def table(tmp_path, values, name="table.csv", **columns):
    """A file with columns `a` (the values), `b` (twice them) and others."""
    columns = {"a": values, "b": [2 * x for x in values], **columns}
    lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    (tmp_path / name).write_text("\n".join(lines) + "\n")
    return str(tmp_path / name)


@pytest.mark.parametrize("check", tasks.PROPERTIES, ids=lambda check: check.__name__)
def test_forecast_keeps(check):
    assert check("forecast") is None


def test_windows_are_in_order_of_time_and_stay_in_their_split(tmp_path):
    file = table(tmp_path, list(range(20)))
    with pytest.raises(InputError, match="val has 2 rows, a window needs 2 \\+ 2"):
        csv_series.source(path=file, values=("a",), history=2, horizon=2)
    data = csv_series.source(
        path=file,
        values=("a", "b"),
        history=2,
        horizon=1,
        standardize=False,
        every=2,
        val_share=0.15,
    )
    rows = {"train": range(13), "val": range(13, 16), "test": range(16, 20)}
    for name, split in data.splits.items():
        for i in range(len(split)):
            past, future = split.example("series", i), split.example("future", i)
            assert past.shape == (2, 2) and future.shape == (1, 2)
            both = np.concatenate([past, future])
            start = rows[name][0] + 2 * i
            np.testing.assert_array_equal(both[:, 0], [start, start + 1, start + 2])
            np.testing.assert_array_equal(both[:, 1], 2 * both[:, 0])
            assert set(both[:, 0].astype(int)) <= set(rows[name])
        assert len(split) == (len(rows[name]) - 3) // 2 + 1
    assert data.splits["test"].columns["future"].naive == (1.0, 2.0)  # it rises by so much a row


def test_standardisation_knows_the_training_rows_alone(tmp_path):
    values = [0.0, 2.0] * 5 + [100.0] * 10
    file = table(tmp_path, values)
    data = csv_series.source(path=file, values=("a",), history=2, horizon=1, val_share=0.25, test_share=0.25, season=2)
    train, val = data.splits["train"], data.splits["val"]
    assert sorted({float(x) for i in range(len(train)) for x in train.example("series", i)[:, 0]}) == [-1, 1]
    assert float(val.example("future", 0)[0, 0]) == 99.0
    assert val.columns["future"].naive == (0.0,)  # a season of two: the training rows repeat


def test_metrics_by_hand():
    # One channel that rises by 1 a row in training, one that never changes there.
    values = np.asarray([[0, 5], [2, 5], [4, 5], [7, 5], [9, 6]], np.float32)
    starts = np.asarray([0])
    split = Split.whole(
        series=csv_series.Windows(values, starts, 3, "series"),
        future=csv_series.Windows(values, starts + 3, 2, "future", 2, (1.0, 0.0)),
    )
    task = TASKS.make("forecast", horizon=2)
    batch = {"future": jnp.asarray([[[7.0, 5.0], [9.0, 6.0]]])}
    outputs = jnp.asarray([[[6.0, 5.0], [12.0, 8.0]]])  # errors -1, 0; 3, 2
    scores = {name: Mean.of([mean]) for name, mean in jax.device_get(task.scores(outputs, batch)).items()}
    assert scores == {"loss": 14 / 4, "mse": 14 / 4, "mae": 6 / 4}
    assert float(task.loss(outputs, batch, {}).value()) == 14 / 4
    # The season before is 2, 4 and 5, 5: errors -5, -5 and 0, -1. The second channel is left out of MASE.
    assert task.gathered(np.asarray(outputs), split) == {
        "mase": 2.0,
        "naive_mse": 51 / 4,
        "naive_mae": 11 / 4,
        "naive_mase": 5.0,
    }
    assert task.answer(np.asarray(outputs[0]), (), None).text == "6 12; 5 8"


def test_the_naive_forecast_repeats_the_last_season():
    history = np.arange(5.0)[:, None]
    assert forecast.seasonal_naive(history, 3, 7)[:, 0].tolist() == [2, 3, 4, 2, 3, 4, 2]
    assert forecast.seasonal_naive(history, 1, 2)[:, 0].tolist() == [4, 4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"values": ()}, "expected columns in data.values"),
        ({"values": ("c",)}, "data.values: 'c' is not a column"),
        ({"values": ("word",)}, "table.csv:2 has no number in 'word'"),
        ({"time": "word"}, "has no time"),
        ({"time": "back"}, "table.csv:3 has a time in 'back' that is not later"),
        ({"season": 5}, "data.season of at most data.history=4"),
        ({"horizon": 0}, "data.horizon >= 1"),
        ({"val_share": 0.5, "test_share": 0.5}, "leave some rows for training"),
    ],
)
def test_bad_tables_and_options_are_refused(tmp_path, options, message):
    file = table(tmp_path, list(range(60)), word=["x"] * 60, back=list(range(60, 0, -1)))
    with pytest.raises(InputError, match=message):
        csv_series.source(**{"path": file, "values": ("a",), "history": 4, "horizon": 2, **options})


def config_of(tmp_path, **task):
    waves = [round(float(np.sin(i / 2)), 6) for i in range(120)]
    config = jaxfer.config.base()
    config.model = dict(name="patchtst", length=8, channels=2, patch=4, stride=2, width=8, layers=1, heads=2)
    config.data = dict(
        source="csv_series", path=table(tmp_path, waves), values=("a", "b"), history=8, horizon=3, season=6
    )
    config.task = dict(name="forecast", horizon=3, **task)
    config.update(init="scratch", batch_size=16, steps=60, lr=1e-2, eval_every=0, test=True)
    return config


def test_a_run_learns_a_sine_and_its_export_goes_on(tmp_path):
    config = config_of(tmp_path)
    test = jaxfer.run(config, tmp_path / "run", quiet=True)["metrics"]["test"]
    assert test["mase"] < 0.5 * test["naive_mase"] and test["mse"] < test["naive_mse"]

    config.model = dict(name="auto")
    config.update(init=str(jaxfer.export(tmp_path / "run")), method="probe", steps=1, lr=0.0)
    again = jaxfer.run(config, tmp_path / "again", quiet=True)["metrics"][
        "test"
    ]  # with its head: the horizon is the same
    assert again == pytest.approx(test, rel=1e-5)
    ledger = json.loads((tmp_path / "again" / "ledger.json").read_text())
    assert "head.projection.weight" in json.dumps(ledger)


def test_another_horizon_than_the_data_has_is_refused(tmp_path):
    config = config_of(tmp_path)
    config.task.horizon = 4
    with pytest.raises(InputError, match="config.task.horizon=4 points, the data's have 3"):
        jaxfer.run(config, tmp_path / "run", quiet=True)
