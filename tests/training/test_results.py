"""A run whose backbone stayed frozen while validation stood still says so, and no other run does."""

from __future__ import annotations

import pytest

from jaxfer.training.results import stood_still
from tests.experiments import tiny_stage


def lines(*scores):
    return [{"step": i, "split": "train", "loss": 1.0} for i in range(9)] + [
        {"step": i, "split": "val", "accuracy": score} for i, score in enumerate(scores)
    ]


@pytest.mark.parametrize(
    ("scores", "noted"),
    [
        ((0.5, 0.6, 0.6, 0.55), True),
        ((0.5, 0.6, 0.61, 0.55), False),
        ((0.5, 0.6, 0.5, 0.5, 0.7), False),
        ((0.7, 0.6, 0.5, 0.5, 0.7), True),
        ((0.6, 0.6, 0.6), False),  # too few to tell
        ((), False),
    ],
)
def test_a_frozen_backbone_and_a_score_that_stands_still(scores, noted):
    note = stood_still([tiny_stage("vit_cls", method="probe")], lines(*scores))
    assert (note is not None) == noted
    if noted:
        assert note.startswith("the backbone was frozen to the end, and accuracy on val is no better in the last ")


@pytest.mark.parametrize("fields", [dict(method="full"), dict(method="lora"), dict(method="full", freeze_units=1)])
def test_silent_where_anything_below_the_head_was_trained(fields):
    stages = [tiny_stage("vit_cls", method="probe"), tiny_stage("vit_cls", **fields)]
    assert stood_still(stages, lines(0.5, 0.5, 0.5, 0.5)) is None
