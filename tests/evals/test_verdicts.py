"""Verdicts: the rule, the sentences word by word, and labels saved by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from jaxfer.errors import InputError
from jaxfer.evals.verdicts import LabelsSaved, holm, labels_saved, labels_saved_by_seed, verdict

ACCURACY = dict(metric="test accuracy", maximize=True)
MSE = dict(metric="test mse", maximize=False)

# Differences 0.03, 0.04, 0.02: mean 0.03, standard deviation 0.01; half-width 4.302653 * 0.01 / sqrt(3) = 0.024841.
HIGHER, LOWER = (0.93, 0.95, 0.94), (0.90, 0.91, 0.92)


def test_helps():
    found = verdict("full", HIGHER, LOWER, **ACCURACY)
    assert (found.method, found.outcome) == ("full", "helps")
    assert (found.effect.low, found.effect.high) == pytest.approx((0.005159, 0.054841), abs=1e-6)
    assert found.sentence == (
        "full helps: test accuracy +0.030 over scratch, 95 % interval [+0.005, +0.055] (paired t over 3 seeds)."
    )


def test_negative_transfer():
    found = verdict("full", LOWER, HIGHER, **ACCURACY, pairs="splits")
    assert found.outcome == "negative transfer" and found.effect.mean == pytest.approx(-0.03)
    assert found.sentence == (
        "full shows negative transfer: test accuracy -0.030 against scratch, 95 % interval [-0.055, -0.005] "
        "(paired t over 3 splits)."
    )


def test_a_minimised_metric():
    """The effect is flipped, the sentence keeps the metric's own sign."""
    found = verdict("full", LOWER, HIGHER, **MSE)
    assert found.outcome == "helps"
    effect = found.effect
    assert (effect.mean, effect.low, effect.high) == pytest.approx((0.03, 0.005159, 0.054841), abs=1e-6)
    assert found.sentence == (
        "full helps: test mse -0.030 against scratch (lower is better), 95 % interval [-0.055, -0.005] "
        "(paired t over 3 seeds)."
    )
    assert verdict("full", HIGHER, LOWER, **MSE).outcome == "negative transfer"


def test_no_evidence():
    """Differences 0.01, 0.02, 0.03, 0: mean 0.015, standard deviation 0.012910, t(0.975, 3) = 3.182446."""
    found = verdict("lora", (0.51, 0.52, 0.53, 0.50), (0.5,) * 4, **ACCURACY)
    assert found.outcome == "no evidence"
    assert found.sentence == (
        "lora: no evidence either way: test accuracy +0.015 over scratch, 95 % interval [-0.006, +0.036] "
        "(paired t over 4 seeds)."
    )


def test_one_seed_cant_tell():
    found = verdict("full", (0.9,), (0.5,), **ACCURACY)
    assert found.outcome == "no evidence" and found.effect.high == math.inf
    assert found.sentence == (
        "full: no evidence either way: test accuracy +0.400 over scratch, but one seed can't tell."
    )


def test_two_equal_differences_cant_tell():
    found = verdict("full", (0.9, 0.8), (0.8, 0.7), **ACCURACY)
    assert found.outcome == "no evidence"
    assert found.sentence == (
        "full: no evidence either way: test accuracy +0.100 over scratch for both seeds, and two without spread "
        "can't tell."
    )
    assert verdict("full", (0.9, 0.8, 0.7), (0.8, 0.7, 0.6), **ACCURACY).outcome == "helps"


def test_a_claim_is_false_as_rarely_as_it_says():
    """No true effect; accuracies on 50 examples come in steps of 0.02, where few seeds often agree by chance."""
    rng = np.random.default_rng(0)
    for seeds in (2, 3, 5):
        draws = np.round(rng.normal(0.7, 0.03, (1000, 2, seeds)) * 50) / 50
        outcomes = [verdict("full", *draw, **ACCURACY).outcome for draw in draws]
        assert sum(outcome != "no evidence" for outcome in outcomes) <= 65


def test_rounding_is_no_effect():
    same = verdict("full", (0.7, 0.8, 0.9), (0.7, 0.8, 0.9), **ACCURACY)
    assert same.outcome == "no evidence"
    assert "test accuracy +0.000 over scratch, 95 % interval [+0.000, +0.000]" in same.sentence
    scores = np.array([0.7, 0.8, 0.9])
    for ulps in (1e-16, 1e-9):
        assert verdict("full", scores * (1 + ulps), scores, **ACCURACY).outcome == "no evidence"
        assert verdict("full", scores * (1 + ulps), scores, **MSE).outcome == "no evidence"


def test_small_effects_keep_their_digits():
    """A hundredth of HIGHER and LOWER: [+0.00005, +0.00055] must not read as [+0.000, +0.001]."""
    found = verdict("full", np.array(HIGHER) / 100, np.array(LOWER) / 100, **ACCURACY)
    assert "+0.0003 over scratch, 95 % interval [+0.0001, +0.0005]" in found.sentence


def test_p_values_are_those_of_the_interval():
    """Differences .02, .03, .04: t = .03 sqrt(3) / .01 of 2 degrees, whose tails are 1 - t / sqrt(t^2 + 2)."""
    found = verdict("full", (0.52, 0.63, 0.74), (0.5, 0.6, 0.7), **ACCURACY)
    t = 3 * math.sqrt(3)
    assert found.p == pytest.approx(1 - t / math.sqrt(t**2 + 2), rel=1e-9)
    assert verdict("full", (0.7,), (0.6,), **ACCURACY).p == 1.0, "one pair"
    assert verdict("full", (0.7, 0.8), (0.6, 0.7), **ACCURACY).p == 1.0, "two without spread"
    assert verdict("full", (0.75, 0.5, 1.0), (0.5, 0.25, 0.75), **ACCURACY).p == 0.0
    assert verdict("full", (0.5, 0.25, 0.75), (0.5, 0.25, 0.75), **ACCURACY).p == 1.0


def test_holm_by_hand():
    """4 x .01, 3 x .02, then 2 x .03, which is no less than the one before it, and .05."""
    assert holm([0.03, 0.01, 0.05, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.4]) == pytest.approx([0.9, 0.8]) and holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_against_a_baseline():
    name = "logistic regression on pixels"
    assert verdict("full", LOWER, HIGHER, against=name, **ACCURACY).sentence == (
        "full shows negative transfer: test accuracy -0.030 against logistic regression on pixels, 95 % interval "
        "[-0.055, -0.005] (paired t over 3 seeds)."
    )
    assert verdict("lora", (0.51, 0.52, 0.53, 0.50), (0.5,) * 4, against=name, **ACCURACY).outcome == "no evidence"


def test_bad_scores_name_the_method():
    with pytest.raises(InputError, match=r"found nan for lora \(number 2 of the 2 seeds\)"):
        verdict("lora", (0.5, math.nan), (0.5, 0.5), **ACCURACY)
    with pytest.raises(InputError, match="found inf for scratch"):
        verdict("lora", (0.5, 0.5), (0.5, math.inf), **MSE)
    with pytest.raises(InputError, match=r"found 2 \(lora\) and 1 \(majority class\)"):
        verdict("lora", (0.5, 0.5), (0.5,), against="majority class", **ACCURACY)


def test_labels_saved_by_hand():
    """0.6 is half-way between 0.5 at 5 and 0.7 at 20 labels: sqrt(5 * 20) = 10."""
    found = labels_saved((5, 20, 100), (0.5, 0.7, 0.9), 0.6)
    assert found.needed == pytest.approx(10) and (found.low, found.high) == (5, 20)
    assert found.factor(5) == pytest.approx(2)
    score = 0.5 + 0.2 * math.log(11 / 5) / math.log(20 / 5)
    assert labels_saved((5, 20, 100), (0.5, 0.7, 0.9), score).sentence("full", 5) == (
        "At 5 labels a class, scratch needs about 11 to match full (interpolated between 5 and 20): 2.2 x the labels."
    )
    assert labels_saved((5, 20, 100), (-0.5, -0.7, -0.9), -0.6).needed == 5
    mirrored = labels_saved((5, 20, 100), (0.5, 0.3, 0.1), 0.4, maximize=False)
    assert mirrored.needed == pytest.approx(10) and (mirrored.low, mirrored.high) == (5, 20)


def test_an_interval_of_labels_saved():
    """Without spread it is a point; a method that two seeds of three put beyond the counts has an open end."""
    labels = (5, 20, 100)
    same = labels_saved_by_seed(labels, ((0.5,) * 3, (0.7,) * 3, (0.9,) * 3), (0.6,) * 3)
    assert same.interval == (pytest.approx(10), pytest.approx(10)) and same.seeds == 3
    curve = ((0.5, 0.4, 0.6), (0.7, 0.6, 0.8), (0.9, 0.8, 1.0))
    found = labels_saved_by_seed(labels, curve, (0.6, 0.6, 0.6), counted="in all")
    # Of three equal draws: scratch 0.1 worse needs 20, 0.1 better 5.
    assert found.needed == pytest.approx(10) and found.interval == (pytest.approx(5), pytest.approx(20))
    assert found.sentence("full", 5) == (
        "At 5 labels in all, scratch needs about 10 to match full (interpolated between 5 and 20): 2.0 x the labels; "
        "95 % interval 5 to 20 (bootstrap over 3 seeds)."
    )
    open_end = labels_saved_by_seed(labels, curve, (0.85, 0.85, 0.85))
    assert open_end.interval[1] == math.inf and "95 % interval from" in open_end.sentence("full", 5)
    beyond = labels_saved_by_seed(labels, curve, (2.0, 2.0, 2.0))
    assert beyond.interval == (math.inf, math.inf) and "interval" not in beyond.sentence("full", 5)
    assert labels_saved_by_seed(labels, ((0.5, 0.5), (0.7, 0.7), (0.9, 0.9)), (0.6, 0.6)).interval is None
    with pytest.raises(InputError, match="expected scores of the same seeds, found 2"):
        labels_saved_by_seed(labels, curve, (0.6, 0.6))


def test_labels_saved_at_a_count_that_was_run():
    found = labels_saved((5, 20, 100), (0.5, 0.7, 0.9), 0.7)
    assert found == LabelsSaved(20, 5, 20)
    assert found.sentence("full", 5) == "At 5 labels a class, scratch needs 20 to match full: 4.0 x the labels."
    assert labels_saved((5, 20, 100), (0.5, 0.7, 0.9), 0.9 + 1e-12) == LabelsSaved(100, 20, 100)


def test_labels_saved_open_bound():
    found = labels_saved((5, 20, 100), (0.5, 0.7, 0.9), 0.91)
    assert found == LabelsSaved(math.inf, 100, math.inf) and found.factor(5) == math.inf
    assert found.sentence("full", 5) == (
        "At 5 labels a class, scratch needs more than 100 to match full: more than 20.0 x the labels."
    )
    assert found.sentence("full", 200) == "At 200 labels a class, scratch needs more than 100 to match full."


def test_no_labels_saved():
    for score, at in ((0.5, 5), (0.4, 5), (0.7, 20), (0.6, 20)):
        found = labels_saved((5, 20, 100), (0.5, 0.7, 0.9), score)
        assert found.factor(at) == 1
        assert found.sentence("probe", at) == (
            f"At {at} labels a class, probe saves no labels: scratch matches it with {at} or fewer."
        )
    # A method with fewer labels than scratch was ever given.
    assert labels_saved((5, 20), (0.5, 0.7), 0.4) == LabelsSaved(5, 0, 5)
    assert labels_saved((5, 20), (0.5, 0.7), 0.4).sentence("full", 1) == (
        "At 1 label a class, scratch needs at most 5 to match full: at most 5.0 x the labels."
    )


def test_the_first_crossing_counts():
    """0.65 is passed at 5..20 (share 0.75), lost at 50 and passed again at 100."""
    found = labels_saved((5, 20, 50, 100), (0.5, 0.7, 0.6, 0.9), 0.65)
    assert found.needed == pytest.approx(5 * 4**0.75) and (found.low, found.high) == (5, 20)
    # A dip before the crossing: from 0.4 at 20 to 0.8 at 80, 0.6 is half-way.
    assert labels_saved((5, 20, 80), (0.5, 0.4, 0.8), 0.6).needed == pytest.approx(40)


@pytest.mark.parametrize(
    "labels, scratch, score, message",
    [
        ((20, 5), (0.5, 0.7), 0.6, "increasing positive label counts"),
        ((0, 5), (0.5, 0.7), 0.6, "increasing positive label counts"),
        ((), (), 0.6, "increasing positive label counts"),
        ((5, 20), (0.5,), 0.6, "found 1 for 2 counts"),
        ((5, 20), (0.5, math.nan), 0.6, "expected finite scores"),
        ((5, 20), (0.5, 0.7), math.inf, "expected finite scores"),
    ],
)
def test_what_labels_saved_refuses(labels, scratch, score, message):
    with pytest.raises(InputError, match=message):
        labels_saved(labels, scratch, score)


def test_a_method_has_labels():
    with pytest.raises(InputError, match="positive number of labels, found 0"):
        labels_saved((5, 20), (0.5, 0.7), 0.6).sentence("full", 0)
