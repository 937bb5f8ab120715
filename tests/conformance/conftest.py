"""The order of the conformance suite: pair by pair, so that a pair's programs are still there for its next test."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    places = [place for place, item in enumerate(items) if _pair(item)]
    for place, item in zip(places, sorted((items[place] for place in places), key=_pair), strict=True):
        items[place] = item


def _pair(item):
    """The method and model that a test of this folder is of."""
    group = item.get_closest_marker("xdist_group") if item.path.parent == HERE else None
    return group and group.args[0]
