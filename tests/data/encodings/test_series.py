from __future__ import annotations

import pickle

import jax
import numpy as np
import pytest

import jaxfer
from jaxfer import config
from jaxfer.data.encodings.series import SeriesEncoding, normalized
from jaxfer.data.loader import Feed
from jaxfer.data.split import Array, Split
from jaxfer.errors import InputError
from jaxfer.registry import MODELS


def split(n=5, length=6, channels=2, seed=0):
    values = np.random.default_rng(seed).normal(3, 2, (n, length, channels)).astype(np.float32)
    return Split.whole(series=Array(values, "series"), label=Array(np.arange(n, dtype=np.int32) % 2, "class"))


def test_each_series_and_channel_is_standardised_by_itself():
    encoding, data = SeriesEncoding(length=6, channels=2), split()
    fields = encoding.reader(data)(np.array([3, 0]))
    raw = data.columns["series"].values[[3, 0]].astype(np.float64)
    wanted = (raw - raw.mean(1, keepdims=True)) / raw.std(1, keepdims=True)
    assert fields["series"].dtype == np.float32
    np.testing.assert_allclose(fields["series"], wanted, rtol=1e-6, atol=1e-7)


def test_a_constant_channel_becomes_zero_even_where_its_mean_is_rounded():
    series = np.full((1, 7, 2), 0.1, np.float32)
    series[0, :, 1] = np.arange(7)
    made = normalized(series)
    assert not made[0, :, 0].any() and made[0, 0, 1] == -1.5


def test_none_keeps_the_values_and_rows_follow_the_split():
    encoding, data = SeriesEncoding(length=6, channels=2, normalize="none"), split()
    part = data.take(np.array([4, 1]))
    read = pickle.loads(pickle.dumps(encoding.reader(part)))
    np.testing.assert_array_equal(read(np.array([0]))["series"], data.columns["series"].values[[4]])
    flat = encoding.flat(part)
    np.testing.assert_array_equal(flat, data.columns["series"].values[[4, 1]].reshape(2, 12))


@pytest.mark.parametrize(("length", "channels"), [(7, 2), (6, 1)])
def test_another_length_or_number_of_channels_is_one_line(length, channels):
    encoding = SeriesEncoding(length=length, channels=channels)
    wanted = rf"expected series of \[{length}, {channels}\] \(length, channels\), found \[6, 2\]; set config.model.leng"
    for attempt in (lambda: Feed(split=split(), encodings=(encoding,)).check(), lambda: encoding.reader(split())):
        with pytest.raises(InputError, match=wanted) as caught:
            attempt()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": ()}, r"widths must be a tuple of at least one width, found \(\); give"),
        ({"widths": (4, 0)}, r"widths\[1\] must be a positive integer, found 0"),
        ({"normalize": "all"}, "normalize must be one of 'none', 'each', found 'all'"),
        ({"length": 0}, "length must be a positive integer, found 0"),
        ({"dropout": 1.0}, r"dropout must be a drop rate in \[0, 1\), found 1.0"),
    ],
)
def test_options_that_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        MODELS.make("series_cnn", outputs=2, **options)


def test_no_parameter_depends_on_the_length():
    shapes = [
        jax.eval_shape(made.init, jax.random.key(0), made.example(2))
        for made in (MODELS.make("series_cnn", outputs=2, widths=(4, 6), length=length) for length in (3, 50))
    ]
    assert shapes[0] == shapes[1]


SERIES = {"source": "npz", "path": "tests/data/series.npz"}
IMAGES = {"source": "synthetic", "image": (8, 8, 1), "examples": 40}


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        (
            {"name": "resnet", "stage_sizes": (1,), "width": 4, "stem": "cifar", "image": (8, 8, 1)},
            SERIES,
            "the model reads images, the data source has series; choose another of the two",
        ),
        (
            {"name": "series_cnn", "widths": (4,), "length": 9},
            IMAGES,
            "the model reads series, the data source has images; choose another of the two",
        ),
        (
            {"name": "series_cnn", "widths": (4,), "length": 10},
            SERIES,
            r"expected series of \[10, 1\] \(length, channels\), found \[9, 1\]",
        ),
    ],
)
def test_a_model_and_data_that_do_not_fit_are_refused_before_anything_is_written(model, data, message, tmp_path):
    settings = config.load("configs/phalanx.py:tiny")
    settings.model, settings.data = model, data
    with pytest.raises(InputError, match=message) as caught:
        jaxfer.run(settings, tmp_path / "run", quiet=True)
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()
