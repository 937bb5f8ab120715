from __future__ import annotations

import json
import pickle
import shutil

import numpy as np
import pytest

import jaxfer
from jaxfer import config
from jaxfer.data.encodings.row import RowEncoding, Rows
from jaxfer.data.split import Array, Split
from jaxfer.errors import InputError
from jaxfer.registry import MODELS
from jaxfer.runs.finished import open_run
from jaxfer.training.preflight import preflight

ROWS = ((1.0, 5.0, "red"), (3.0, None, "blue"), (None, 5.0, None), (5.0, 5.0, "red"))


def split(rows=ROWS, numbers=("size", "weight"), categories=("colour",)):
    column = Rows(numbers=numbers, categories=categories, rows=rows)
    return Split.whole(row=column, label=Array(np.arange(len(rows), dtype=np.int32) % 2, "class"))


FITTED = {
    "numbers": ("size", "weight"),
    "means": (3.0, 5.0),
    "stds": ((8 / 3) ** 0.5, 1.0),
    "categories": ("colour",),
    "values": (("blue", "red"),),
}


def test_statistics_are_of_the_training_rows_that_have_the_number():
    fitted = RowEncoding().fitted(split())
    assert fitted == FITTED
    assert RowEncoding(**fitted).fitted(split(ROWS[:1])) == {}  # nothing is open: other rows change nothing
    assert RowEncoding().fitted(split().take(np.array([0]))) | {"values": ()} == FITTED | {
        "means": (1.0, 5.0),
        "stds": (1.0, 1.0),
        "values": (),
    }


def test_what_the_config_states_is_not_fitted():
    fitted = RowEncoding(numbers=("size",), means=(0.0,), stds=(2.0,)).fitted(split())
    assert fitted == {}
    assert RowEncoding(categories=("colour",), values=(("red",),)).fitted(split()) == {}
    assert set(RowEncoding(numbers=("size",)).fitted(split())) == {"means", "stds"}


def test_a_column_without_a_number_has_mean_0_and_deviation_1():
    fitted = RowEncoding().fitted(split(((None,), (None,)), ("size",), ()))
    assert (fitted["means"], fitted["stds"], fitted.get("values", ())) == ((0.0,), (1.0,), ())


def test_fields():
    encoding = RowEncoding(**FITTED)
    read = pickle.loads(pickle.dumps(encoding.reader(split((*ROWS, (2.0, 7.0, "green"))))))
    fields = read(np.array([0, 1, 2, 4]))
    assert {name: field.dtype for name, field in fields.items()} == {
        "numbers": np.float32,
        "missing": np.float32,
        "categories": np.int32,
    }
    root = (8 / 3) ** 0.5
    np.testing.assert_allclose(fields["numbers"], [[-2 / root, 0], [0, 0], [0, 0], [-1 / root, 2]], rtol=1e-6)
    assert fields["missing"].tolist() == [[0, 0], [0, 1], [1, 0], [0, 0]]
    assert fields["categories"].tolist() == [[2], [1], [0], [0]]  # missing and never seen are both 0
    assert {name: shape.shape for name, shape in encoding.example(4).items()} == {
        name: field.shape for name, field in fields.items()
    }


def test_numbers_alone_and_categories_alone():
    numbers = RowEncoding(numbers=("size",), means=(0.0,), stds=(1.0,)).reader(split())(np.arange(2))
    assert numbers["numbers"].shape == (2, 1) and numbers["categories"].shape == (2, 0)
    words = RowEncoding(categories=("colour",), values=(("red",),)).reader(split())(np.arange(2))
    assert words["numbers"].shape == (2, 0) and words["categories"].tolist() == [[1], [0]]


def test_a_baseline_reads_numbers_flags_and_one_hot_categories():
    flat = RowEncoding(**FITTED).flat(split())
    assert flat.dtype == np.float32 and flat.shape == (4, 2 + 2 + 3)
    assert flat[:, 2:].tolist() == [[0, 0, 0, 0, 1], [0, 1, 0, 1, 0], [1, 0, 1, 0, 0], [0, 0, 0, 0, 1]]


@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        (RowEncoding(numbers=("height",)), "the model reads 'height' of data.numbers; nearest: 'weight'; add it there"),
        (RowEncoding(numbers=("colour",)), "the model reads 'colour' of data.numbers; known: size, weight; add it"),
        (RowEncoding(categories=("size",)), "the model reads 'size' of data.categories; known: colour; add it there"),
    ],
)
def test_data_without_a_column_of_the_model(encoding, message):
    for attempt in (encoding.check, encoding.fitted):
        with pytest.raises(InputError, match=message):
            attempt(split())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"numbers": ("a", "a")}, r"must name each column once, found \('a', 'a'\)"),
        ({"numbers": ("a",), "means": (1.0, 2.0)}, r"means must be \(\) or one for each of 1 columns, found 2"),
        ({"numbers": ("a",), "means": (1.0,)}, "means and stds go together, found 1 and 0; set both or neither"),
        ({"numbers": ("a",), "means": (1.0,), "stds": (0.0,)}, r"stds must be positive, found \(0.0,\)"),
        ({"blocks": 0}, "blocks must be a positive integer, found 0"),
    ],
)
def test_options_that_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        MODELS.make("row_mlp", outputs=2, **options)


def tiny(**changes):
    return config.load("configs/heart.py:tiny", changes)


def model_of(folder):
    return json.loads((folder / "config.json").read_text())["model"]


@pytest.mark.system
def test_statistics_travel_with_the_weights(tmp_path):
    settings = tiny(**{"data.val_per_class": 4})
    jaxfer.run(settings, tmp_path / "first", quiet=True)
    first = model_of(tmp_path / "first")
    assert first["numbers"] == ["size"] and len(first["means"]) == 1 and first["values"] == [["blue", "green", "red"]]

    # Fewer labels are other rows: their mean differs, and the source's is used.
    few = {"data.labels_per_class": 2, "data.val_per_class": 4, "batch_size": 2, "head": "keep"}
    own = preflight(tiny(**few)).experiment
    assert dict(own.model.options)["means"] != tuple(first["means"])
    then = tiny(**few, init="sibling:first")
    planned = preflight(then).experiment  # before there is a source: left open
    assert dict(planned.model.options)["means"] == ()
    jaxfer.run(then, tmp_path / "then", quiet=True)
    assert model_of(tmp_path / "then") == first
    assert open_run(tmp_path / "then").stage.spec.port.encoding.means == tuple(first["means"])

    named = tiny(**few, init=f"run:{tmp_path / 'first'}")
    assert dict(preflight(named).experiment.model.options)["means"] == tuple(first["means"])
    shutil.rmtree(tmp_path / "first")  # a finished run no longer needs its source
    assert jaxfer.run(then, tmp_path / "then", quiet=True)["steps"] == 2


def test_other_statistics_than_the_sources_are_refused(tmp_path):
    jaxfer.run(tiny(), tmp_path / "first", quiet=True)
    other = tiny(**{"model.numbers": ("size",), "model.means": (1.0,), "model.stds": (1.0,)}, init="sibling:first")
    with pytest.raises(InputError, match=r"the source's model is different \(.*means is .* there, \(1.0,\) here"):
        jaxfer.run(other, tmp_path / "then", quiet=True)


def test_a_table_without_a_column_of_the_source_is_refused(tmp_path):
    jaxfer.run(tiny(), tmp_path / "first", quiet=True)
    with pytest.raises(InputError, match="the model reads 'colour' of data.categories; known: none; add it there"):
        jaxfer.run(tiny(**{"data.categories": ()}, init="sibling:first"), tmp_path / "then", quiet=True)


def test_rows_for_a_model_of_images_and_the_reverse():
    settings = tiny()
    settings.model = dict(name="resnet", stage_sizes=(1,), width=4, stem="cifar", image=(8, 8, 1))
    with pytest.raises(InputError, match="the model reads images, the data source has rows of a table; choose"):
        preflight(settings)
    settings = tiny()
    settings.data = dict(source="synthetic", image=(8, 8, 1), examples=40)
    with pytest.raises(InputError, match="the model reads rows of a table, the data source has images; choose"):
        preflight(settings)
