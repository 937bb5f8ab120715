"""How numbers are written, where axes have ticks, and what statistics are."""

import math

import numpy as np
import pytest

from jaxfer.errors import InputError
from jaxfer.reports import calibration, importance, numbers, svg


def test_numbers():
    assert [numbers.score(0.8642), numbers.score(math.nan), numbers.score(None)] == ["0.864", "–", "–"]
    assert [numbers.signed(0.2226), numbers.signed(-0.0001), numbers.signed(-0.5)] == ["+0.223", "+0.000", "−0.500"]
    assert numbers.gain(0.0193, -0.0002, 0.0388) == "+0.0193 [−0.0002, +0.0388]"
    assert numbers.gain(0.5, None, None) == "+0.500 [–, –]"
    assert [numbers.percent(0.032), numbers.percent(0.64), numbers.percent(0)] == ["3.2 %", "64 %", "0 %"]
    assert [numbers.compact(77754), numbers.compact(0.02), numbers.compact(1e9)] == ["77.8 k", "0.02", "1 G"]
    assert [numbers.seconds(0.73), numbers.seconds(200), numbers.seconds(7500)] == [
        "0.73 s",
        "3 min 20 s",
        "2 h 05 min",
    ]
    assert [numbers.size(600_000), numbers.size(10)] == ["586 KiB", "10 B"]


def test_scales():
    scale = svg.fitted([0.2, 0.8], 100, 0, margin=0, within="share")
    assert (scale(0.2), scale(0.8), scale.ticks(3)) == (100, 0, [0.2, 0.4, 0.6, 0.8])
    log = svg.fitted([10, 1000], 0, 100, log=True, margin=0)
    assert (log(100), log.ticks(3)) == (50, [10, 100, 1000])
    assert svg.fitted([3.0], 0, 100)(3.0) == 50  # a single value is in the middle
    one = svg.fitted([0.0, 0.0], 0, 100, margin=0)  # nothing matters
    assert one(0.0) == 0 and one(1.0) == 100


def test_calibration_by_hand():
    confidence, right = np.array([0.9, 0.6, 0.8, 0.7]), np.array([True, False, True, True])
    found = calibration.equal_width(confidence, right, 4)  # to 0.25, 0.5, 0.75 and 1
    assert found == [(pytest.approx(0.65), 0.5, 2), (pytest.approx(0.85), 1.0, 2)]
    assert calibration.error(found) == pytest.approx(0.15)
    found = calibration.equal_mass(confidence, right, 3)  # 0.6 and 0.7, 0.8, 0.9
    assert found == [(pytest.approx(0.65), 0.5, 2), (0.8, 1.0, 1), (0.9, 1.0, 1)]
    assert calibration.error(found) == pytest.approx(0.15) and len(calibration.equal_mass(confidence, right)) == 4
    assert calibration.brier(np.array([[0.9, 0.1], [0.3, 0.7]]), np.array([0, 0])) == pytest.approx(0.5)
    coverage, wrong = calibration.risk(confidence, right)
    assert coverage.tolist() == [0.25, 0.5, 0.75, 1] and wrong.tolist() == [0, 0, 0, 0.25]


def test_a_temperature_that_fits_val():
    """Outputs log(9) apart, three of four right: divided by log 9 / log 3 = 2 they are as sure as they are right."""
    probabilities, labels = np.tile([0.9, 0.1], (8, 1)), np.array([0, 0, 0, 0, 0, 0, 1, 1])
    page = str(calibration.section(probabilities, labels).parts[0])
    assert (
        "as the metric ece has them, it is 0.150. With outputs divided by 2, which fits val best, that is 0.000."
        in page
    )
    assert "With outputs" not in str(calibration.section(probabilities, np.zeros(8, int)).parts[0])


def test_marks_of_an_axis_do_not_cover_each_other():
    few, many = (importance.axis("init", [f"run {i}" for i in range(count)]) for count in (20, 36))
    assert [words for _, words in few.ticks] == [f"run {i}" for i in range(20)]
    assert [words for _, words in many.ticks] == [f"run {i}" for i in range(0, 36, 2)]
    assert len(many.places) == 36


def test_importance_by_permutation():
    """Of a score that is 1 for one of two names: shuffling it doubles the variance, half of it by chance."""
    settings = [[name, lr] for lr in (0.1, 0.01, 0.001, 0.0001, 1e-5) for name in ("a", "b")] * 10
    found = importance.permuted(settings, [float(name == "a") for name, _ in settings], ["method", "lr"])
    assert list(found.of) == ["method", "lr"] and found.of["lr"] == 0 and found.r2 == 1 and not found.fanova
    assert found.of["method"] == pytest.approx(2, abs=0.2)  # mean of (y - y')^2 over the variance 1/4 is 4 x 1/2
    assert importance.permuted(settings[:7], range(7), ["method", "lr"]) is None
    assert importance.permuted(settings, [1.0] * 100, ["method", "lr"]) is None


def test_optunas_importance_is_read(tmp_path):
    assert importance.stored(tmp_path) is None
    (tmp_path / "importance.csv").write_text("field,importance\nlr,0.250000\nmethod,0.750000\n")
    assert importance.stored(tmp_path) == ({"method": 0.75, "lr": 0.25}, True, None)
    (tmp_path / "importance.csv").write_text("field,importance\nlr\n")
    with pytest.raises(InputError, match="expected fields and their importance"):
        importance.stored(tmp_path)
