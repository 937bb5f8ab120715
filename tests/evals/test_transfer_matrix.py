"""The four numbers of a sequence of tasks, on matrices made by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from jaxfer.errors import InputError
from jaxfer.evals.transfer_matrix import Transfer, average, backward, forgetting, forward, transfer

NAN = math.nan
# Task 1 gets better during task 2 and is forgotten during task 3: forgetting counts from its best.
SCORES = [[0.90, 0.30, 0.20], [0.95, 0.80, 0.40], [0.70, 0.75, 0.85]]
START = [0.10, 0.25, 0.15]


def test_by_hand():
    assert average(SCORES) == pytest.approx((0.70 + 0.75 + 0.85) / 3, abs=1e-15)
    assert backward(SCORES) == pytest.approx(((0.70 - 0.90) + (0.75 - 0.80)) / 2, abs=1e-15)
    assert forward(SCORES, START) == pytest.approx(((0.30 - 0.25) + (0.40 - 0.15)) / 2, abs=1e-15)
    assert forgetting(SCORES) == pytest.approx(((0.95 - 0.70) + (0.80 - 0.75)) / 2, abs=1e-15)
    found = transfer(SCORES, START)
    assert found == Transfer(average(SCORES), forgetting(SCORES), backward(SCORES), forward(SCORES, START))


def test_forgetting_counts_what_was_known_before_a_task():
    """All rows before the last count: a task may be best before it is trained on."""
    assert forgetting([[0.9, 0.8, 0.0], [0.9, 0.6, 0.0], [0.9, 0.6, 0.9]]) == pytest.approx(0.1, abs=1e-15)


def test_tasks_that_are_not_scored_before_they_are_trained_on():
    """Heads of their own: the upper half is empty, and there is no forward transfer."""
    lower = [[0.9, NAN, NAN], [0.8, 0.9, NAN], [0.6, 0.7, 0.9]]
    found = transfer(lower, START)
    assert found.forward is None and transfer(SCORES).forward is None
    assert found.forgetting == pytest.approx(0.25, abs=1e-15) and found.backward == pytest.approx(-0.25, abs=1e-15)
    with pytest.raises(InputError, match="task 1 has no score before it is trained on; evaluate it there"):
        forward(lower, START)


def test_one_task():
    assert transfer([[0.9]]) == Transfer(0.9, None, None, None)
    with pytest.raises(InputError, match=r"expected a square of scores of 2 or more tasks, found \[1, 1\]"):
        backward([[0.9]])


@pytest.mark.parametrize("seed", range(3))
def test_forgetting_is_at_least_minus_the_backward_transfer(seed):
    scores = np.random.default_rng(seed).random((5, 5))
    assert forgetting(scores) >= -backward(scores)


@pytest.mark.parametrize(
    ("scores", "line"),
    [
        ([[0.9, 0.8]], r"expected a square of scores of 1 or more tasks, found \[1, 2\]"),
        ([[0.9, math.inf], [0.8, 0.9]], "expected finite scores, or NaN where there is none"),
        ([[NAN, NAN], [0.8, 0.9]], "task 0 has no score right after it"),
        ([[0.9, NAN], [NAN, 0.9]], "task 0 has no score after the last one"),
    ],
)
def test_what_is_refused(scores, line):
    with pytest.raises(InputError, match=line):
        transfer(scores)
    with pytest.raises(InputError, match="for each of 3 tasks, found 2"):
        forward(SCORES, [0.1, 0.2])
