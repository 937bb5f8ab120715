"""The frame: what does not fit is left out and counted."""

from html.parser import HTMLParser

from jaxfer.reports.markup import tag
from jaxfer.reports.page import Page, Part, Section


def page(parts):
    sections = [Section(name="One", title="A finding", parts=parts)]
    return Page(kind="run", title="<script>alert(1)</script>", lead="", tiles={"x": ("1", "")}, sections=sections)


def test_parts_without_room_are_counted():
    parts = [Part(content=tag("p", "x" * 30_000), name=f"part {i}") for i in range(5)]
    text, left_out = page(parts).html(100_000)
    assert len(text.encode()) <= 100_000 and left_out == ("part 2", "part 3", "part 4")
    assert "3 parts left out to keep the page small: part 2, part 3, part 4" in text
    assert page(parts).html()[1] == ()


def test_the_frame_is_complete_and_closed():
    text, _ = page([Part(content=tag("p", "x"))]).html()
    assert "<script" not in text and "&lt;script&gt;" in text
    assert "default-src &#x27;none&#x27;" in text and 'lang="en"' in text
    opened = []

    class Closed(HTMLParser):
        def handle_starttag(self, name, attributes):
            if name not in ("meta", "img", "br"):
                opened.append(name)

        def handle_endtag(self, name):
            assert opened.pop() == name

    Closed().feed(text)
    assert not opened
    for landmark in ("<header>", '<nav aria-label="Contents">', '<main id="content">', "<footer>"):
        assert landmark in text
