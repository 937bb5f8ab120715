"""Reports in a real browser: nothing is asked for, nothing runs over the edge, in light and dark."""

import json

import pytest

import jaxfer
from tests.browser import CHROMIUM, browser
from tests.reports import comparisons

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine"),
]
# What a screen reader or a reader without a mouse needs.
FAULTS = """JSON.stringify([
  ...[...document.querySelectorAll('svg[role=img]')].filter(s => !s.getAttribute('aria-labelledby').split(' ')
    .every(id => document.getElementById(id)?.textContent)).map(s => 'unnamed drawing'),
  ...[...document.querySelectorAll('th')].filter(h => !h.scope).map(h => 'th without scope: ' + h.textContent),
  ...[...document.querySelectorAll('img')].filter(i => !i.alt || !i.naturalWidth).map(i => 'img'),
  ...[...document.querySelectorAll('[id]')].map(e => e.id).filter((id, i, all) => all.indexOf(id) != i),
  ...[...document.querySelectorAll('nav a')].filter(a => !document.querySelector(a.hash)).map(a => 'no ' + a.hash),
])"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = comparisons.write(tmp_path_factory.mktemp("browser") / "c", arm="a method with a rather long name " * 3)
    return jaxfer.report(folder).path


def test_it_asks_for_nothing_and_fits(page):
    with browser() as chromium:
        grounds = set()
        for width in (360, 800, 1600):
            for dark in (False, True):
                chromium.open(page, width=width, dark=dark)
                assert chromium.requests == [page.as_uri()] and not chromium.messages
                assert chromium.evaluate("document.documentElement.scrollWidth") <= width
                grounds.add((dark, chromium.evaluate("getComputedStyle(document.body).backgroundColor")))
        assert len(grounds) == 2
        assert json.loads(chromium.evaluate(FAULTS)) == []
        assert chromium.printed().startswith(b"%PDF")


def test_the_policy_refuses_what_a_name_could_bring_in(page, tmp_path):
    text = page.read_text().replace(
        "</main>", '<script>document.title="run"</script><img src="http://127.0.0.1:9/x"></main>'
    )
    (tmp_path / "x.html").write_text(text)
    with browser() as chromium:
        chromium.open(tmp_path / "x.html")
        assert chromium.evaluate("document.title") != "run"
        assert chromium.evaluate("document.querySelector('main > img').naturalWidth") == 0
        assert any("Content Security Policy" in message for message in chromium.messages)
