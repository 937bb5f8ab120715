"""The order of the conformance suite: model by model, and of a model pair by pair, so that its shapes and the pair's
programs are still there for the next test."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    places = [place for place, item in enumerate(items) if _pair(item)]
    for place, item in zip(places, sorted((items[place] for place in places), key=_pair), strict=True):
        items[place] = item


def _pair(item):
    """The model and method that a test of this folder is of."""
    group = item.get_closest_marker("xdist_group") if item.path.parent == HERE else None
    return group and tuple(reversed(group.args[0].split("-")))
