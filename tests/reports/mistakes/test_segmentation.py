"""The page of masks: each class's pixels by hand, and that they and the worst pictures are the run's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jaxfer.reports.mistakes import segmentation
from tests.reports.mistakes.read import listed, reported

MASKED = str(Path(__file__).parents[2] / "data/masked")


def test_counts_by_hand():
    """Two pictures: 12 of 16 pixels are right, class b is taken for c; d is nowhere."""
    first = np.array([[4, 0, 0, 0], [0, 2, 2, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    second = np.array([[3, 1, 0, 0], [0, 2, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]])
    rows = listed(str(segmentation._by_class(first + second, ("a", "b", "c", "d")).content), "classes")
    assert [(row["class"], row["true pixels"], row["answered pixels"]) for row in rows] == [
        ("a", "8", "7"),
        ("b", "7", "5"),
        ("c", "1", "4"),
        ("d", "0", "0"),
    ]
    assert [float(row["IoU"]) for row in rows[:3]] == pytest.approx([7 / 8, 4 / 8, 1 / 4])
    assert [float(row["recall"]) for row in rows[:3]] == pytest.approx([7 / 8, 4 / 7, 1])
    assert [row["taken most often for"] for row in rows] == ["b", "c", "", ""] and not rows[3]["IoU"]


@pytest.mark.system
def test_the_page_of_a_run(tmp_path):
    data = dict(source="masks", path=MASKED)
    metrics, page = reported(tmp_path / "run", "vit_cls", dict(name="segmentation"), data)
    rows, classes = listed(page, "mistakes"), listed(page, "classes")
    shares = [float(row["share of the labelled"]) for row in rows]
    assert shares == sorted(shares, reverse=True)
    assert np.mean([float(row["IoU"]) for row in classes if row["IoU"]]) == pytest.approx(metrics["miou"])
    wrong, pixels = sum(int(row["mistaken pixels"]) for row in rows), sum(int(row["true pixels"]) for row in classes)
    if len(rows) < 24:  # all that are mistaken
        assert 1 - wrong / pixels == pytest.approx(metrics["pixel_accuracy"], abs=1e-6)
    assert page.count('class="views"') == len(rows)
