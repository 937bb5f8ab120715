"""The Pareto front by hand."""

from __future__ import annotations

import math

from jaxfer.reports import cost


def test_the_front():
    found = [("a", [0.5], 1.0, 0), ("b", [0.5, 0.75], 2.0, 1), ("c", [0.625], 2.0, 2), ("d", [0.55], 3.0, 3)]
    free = [("free", [0.9], 0.0, 0), ("unknown", [0.9], None, 0), ("nan", [0.9], math.nan, 0)]
    priced = cost.affordable([*found, *free])
    assert [entry.name for entry in priced] == ["a", "b", "c", "d"]
    assert [entry.name for entry in cost.front(priced, True)] == ["a", "b"]  # c is as good for as much
    assert [entry.name for entry in cost.front(priced, False)] == ["a"]
    assert [entry.name for entry in cost.front(priced[::-1], True)] == ["a", "c"]
    assert cost.heading(priced, True, "-") == "Nothing is both faster and better than a and b"
    many = [cost.Priced(str(i), [i], i, 0) for i in range(1, 8)]
    assert cost.heading(many, True, "-") == "Nothing is both faster and better than 1, 2, 3, 4 and 3 others"
    assert cost.heading(many[:5], True, "-") == "Nothing is both faster and better than 1, 2, 3, 4 and 5"
    assert cost.heading([], True, "none") == "none"
