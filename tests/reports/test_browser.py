"""Reports of every kind in a real browser: nothing is asked for, nothing runs over the edge, all can be read."""

import json

import pytest

import jaxfer
from tests.browser import CHROMIUM, browser
from tests.reports import comparisons, pages

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine"),
]
# What a screen reader or a reader without a mouse needs.
FAULTS = """JSON.stringify([
  ...[...document.querySelectorAll('svg[role=img]')].filter(s => !s.getAttribute('aria-labelledby').split(' ')
    .every(id => document.getElementById(id)?.textContent)).map(s => 'unnamed drawing'),
  ...[...document.querySelectorAll('figure')].filter(f => f.querySelector('svg[role=img]') && !f.querySelector('td'))
    .map(f => 'no numbers of ' + f.id),
  ...[...document.querySelectorAll('th')].filter(h => !h.scope).map(h => 'th without scope: ' + h.textContent),
  ...[...document.querySelectorAll('[role=region]')].filter(r => !r.ariaLabel).map(r => 'region'),
  ...[...document.querySelectorAll('img')].filter(i => !i.alt || !i.naturalWidth).map(i => 'img'),
  ...[...document.querySelectorAll('[id]')].map(e => e.id).filter((id, i, all) => all.indexOf(id) != i),
  ...[...document.querySelectorAll('nav a')].filter(a => !document.querySelector(a.hash)).map(a => 'no ' + a.hash),
])"""


# Text whose contrast with the ground behind it is less than 4.5 (3 where it is large), and what it is.
PALE = """JSON.stringify((() => {
  const parsed = c => { const n = c.match(/[\\d.]+/g).map(Number); return n.length > 3 ? n : [...n, 1] };
  const over = (front, back) => front.slice(0, 3).map((v, i) => v * front[3] + back[i] * (1 - front[3]));
  const light = c => c.slice(0, 3).map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const ground = e => e ? over(parsed(getComputedStyle(e).backgroundColor), ground(e.parentElement)) : [255, 255, 255];
  const found = [], texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const e = texts.currentNode.parentElement, style = getComputedStyle(e);
    if (!texts.currentNode.data.trim() || !e.checkVisibility() || e.matches('title, desc, svg .on')) continue;
    const back = ground(e), size = parseFloat(style.fontSize);
    const front = over(parsed(e.closest('svg') ? style.fill : style.color), back);
    const [low, high] = [light(front), light(back)].sort((x, y) => x - y);
    const least = size >= 24 || size >= 18.66 && style.fontWeight >= 700 ? 3 : 4.5;
    const said = [e.tagName, texts.currentNode.data.trim().slice(0, 30), front, back];
    if ((high + .05) / (low + .05) < least) found.push(said);
  }
  return found;
})())"""
# Places that Tab has to reach, in order; what is folded away can't be reached.
STOPS = """JSON.stringify([...document.querySelectorAll('a[href], summary, [tabindex="0"]')]
  .filter(e => e.checkVisibility()).map(e => [...document.querySelectorAll('*')].indexOf(e)))"""
PAPER = 739  # pixels of CSS between the margins of a letter
# What paper loses: columns beyond its edge, and what is folded away.
CUT = """JSON.stringify([
  ...[...document.querySelectorAll('.scroll')].filter(d => d.scrollWidth > d.clientWidth + 1)
    .map(d => [d.ariaLabel, d.scrollWidth, d.clientWidth]),
  ...[...document.querySelectorAll('details table')].filter(t => !t.checkVisibility()).map(t => 'folded away'),
])"""
HERE = "[...document.querySelectorAll('*')].indexOf(document.activeElement)"
COMMAND = dict(config="a.py", overrides={"data.path": "/a/rather/long/path" * 6})
KINDS = ("comparison", "run", "sweep", "ranking", "diagnosis")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """{kind: its page}, of small things with long names."""
    folder = tmp_path_factory.mktemp("browser")
    long = "a name that is rather long " * 3
    run = pages.run(folder, "cat", "dog " * 12, "fox")
    from_files = {
        "sweep": pages.sweep(folder / "sweep", run),
        "ranking": pages.ranking(
            folder / "rank.json", inits=(long, "b", "c"), command=COMMAND | {"candidates": [long]}
        ),
        "diagnosis": pages.diagnosis(folder / "doctor.json", findings=45, command=COMMAND),
        "comparison": comparisons.write(folder / "compared", arm=long, counts=(5, 10), labels_to_match=12.5),
    }
    found = {"run": jaxfer.report(run).path}
    for kind, path in from_files.items():
        found[kind] = jaxfer.report(path, out=folder / f"{kind}.html", evaluate=False).path
    return found


@pytest.fixture(scope="module")
def page(made):
    return made["comparison"]


def tabbed(chromium):
    """(places that Tab has to reach, those that it reaches)."""
    stops, reached = json.loads(chromium.evaluate(STOPS)), []
    for _ in stops:
        chromium.press("Tab")
        reached.append(chromium.evaluate(HERE))
    return stops, reached


@pytest.mark.parametrize("kind", KINDS)
def test_it_asks_for_nothing_fits_and_can_be_read(made, kind):
    page = made[kind]
    with browser() as chromium:
        grounds = set()
        for width in (360, 1600):
            for dark in (False, True):
                chromium.open(page, width=width, dark=dark)
                asked = [address for address in chromium.requests if not address.startswith("data:")]
                assert asked == [page.as_uri()] and not chromium.messages
                assert chromium.evaluate("document.documentElement.scrollWidth") <= width
                assert json.loads(chromium.evaluate(PALE)) == []
                grounds.add((dark, chromium.evaluate("getComputedStyle(document.body).backgroundColor")))
        assert len(grounds) == 2
        assert json.loads(chromium.evaluate(FAULTS)) == []
        stops, reached = tabbed(chromium)
        assert reached == stops and len(stops) > 3
        chromium.open(page, width=PAPER, paper=True)
        assert json.loads(chromium.evaluate(CUT)) == []
        assert chromium.printed().startswith(b"%PDF")


def test_pictures_confusion_and_parallel_coordinates_are_on_these_pages(made):
    assert 'id="confusion"' in made["run"].read_text() and made["run"].read_text().count("<img") > 3
    assert 'id="parallel"' in made["sweep"].read_text()


def test_pale_text_is_found(page, tmp_path):
    """The check itself: grey of 4.48 on white is too pale, of 4.54 it is not."""
    text = page.read_text()
    for colour, count in (("#777777", 1), ("#767676", 0)):
        told = f'<p style="color:{colour};background:#fff">x</p></main>'
        (tmp_path / "x.html").write_text(text.replace("</main>", told))
        with browser() as chromium:
            chromium.open(tmp_path / "x.html")
            assert len(json.loads(chromium.evaluate(PALE))) == count


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
