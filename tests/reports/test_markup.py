"""What users call things can't become markup."""

from jaxfer.reports.markup import Markup, escaped, tag


def test_text_is_escaped_and_markup_is_not():
    assert tag("p", "<script>&\"'", Markup("<b>x</b>"), class_="a", aria_label='"><i>') == (
        '<p class="a" aria-label="&quot;&gt;&lt;i&gt;">&lt;script&gt;&amp;&quot;&#x27;<b>x</b></p>'
    )
    assert tag("details", open=True, id=None) == "<details open></details>"


def test_controls_and_turned_writing_are_replaced():
    assert escaped("a\x00b\x1b\u202ec\ud800\n") == "a\ufffdb\ufffd\ufffdc\ufffd\n"
