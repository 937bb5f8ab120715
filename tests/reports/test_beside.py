"""What a comparison measured beside its metric, on its page."""

from __future__ import annotations

import re

import jaxfer
from tests.reports import comparisons


def test_which_corruption_hurts(tmp_path):
    """By the mean over seeds, the worst for the best arm first; what an older comparison kept has no such table."""
    common = dict(name="corrupted accuracy", maximize=True, test=[0.5, 0.6], before=None)
    common |= dict(outcome=None, effect=None, interval95=None, p_holm=None)
    ours, theirs = dict(fog=[0.625, 0.375], snow=[0.25, 0.5]), dict(fog=[0.25, 0.5], snow=[0.5, None])
    more = dict(beside=[common | dict(each=ours)], of_scratch=dict(beside=[common | dict(each=theirs)]))
    text = jaxfer.report(comparisons.write(tmp_path / "a", **more)).path.read_text()
    assert "snow hurts full most: 0.375 test accuracy at 5 labels a class" in text
    section = text.partition('<section id="shift"')[2].partition("</section>")[0]
    found = [re.findall(r">([^<>]*)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", section)]
    assert found == [
        ["corruption", "scratch", "full"],
        ["none", "0.550", "0.750"],
        ["snow", "–", "0.375"],
        ["fog", "0.375", "0.500"],
    ]
    older = dict(beside=[common], of_scratch=dict(beside=[common]))
    assert 'id="shift"' not in jaxfer.report(comparisons.write(tmp_path / "b", **older)).path.read_text()
