"""The pages in a real browser: nothing else is asked for, nothing runs over the edge, in light and dark."""

import json

import pytest

from jaxfer.runs.folder import locked
from tests.browser import CHROMIUM, browser
from tests.reports.test_browser import FAULTS, PALE, tabbed
from tests.ui.serving import EVIL, fill, serving

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine"),
]
# Links of these pages lead to other pages as well, and what is no address here is no fault.
HERE = FAULTS.replace("'nav a'", "'nav a[href^=\"#\"]'")


def test_pages_fit_and_ask_for_nothing(tmp_path):
    root = fill(tmp_path / "runs")
    (root / "good").rename(root / ("a run with a rather long name " * 4))
    with serving(root) as port, locked(root / "sweep"), browser() as chromium:
        for path in ("/", "/live/sweep", "/report/compared", "/live/going", "/report/found/rank.json"):
            address, grounds = f"http://127.0.0.1:{port}{path}", set()
            for width in (360, 800, 1600):
                for dark in (False, True):
                    chromium.open(address, width=width, dark=dark)
                    assert chromium.requests == [address] and not chromium.messages
                    assert chromium.evaluate("document.documentElement.scrollWidth") <= width, (path, width)
                    assert json.loads(chromium.evaluate(PALE)) == [], path
                    grounds.add((dark, chromium.evaluate("getComputedStyle(document.body).backgroundColor")))
            assert len(grounds) == 2 and json.loads(chromium.evaluate(HERE)) == []
            stops, reached = tabbed(chromium)
            assert reached == stops and stops


def test_links_work_and_names_run_nothing(tmp_path):
    with serving(fill(tmp_path / "runs")) as port, browser() as chromium:
        chromium.open(f"http://127.0.0.1:{port}/")
        assert EVIL in chromium.evaluate("document.body.textContent") and not chromium.evaluate(
            "document.scripts.length"
        )
        links = json.loads(
            chromium.evaluate("JSON.stringify([...document.querySelectorAll('main a')].map(a => a.href))")
        )
        for link in links:
            chromium.open(link)
            assert chromium.evaluate("document.querySelector('h1').textContent") != "Nothing is here", link
