"""The look of a page: its colours in light and dark, and its style sheet."""

from __future__ import annotations

from pathlib import Path

RULES = Path(__file__).with_name("style.css")
# Text is `ink`, `muted`, `link` or a verdict's colour, on `page` or on `card`: contrasts of 4.5 and more (WCAG AA).
# Series are shapes and lines, and boxes with rates in the colour of the page: 4.5 and more.
LIGHT = {
    **{
        "page": "#ffffff",
        "card": "#f6f8fa",
        "ink": "#1b2027",
        "muted": "#57606a",
        "line": "#d5dbe1",
        "link": "#0b57a4",
    },
    **{"link": "#0b57a4", "good": "#11652c", "bad": "#b0241c", "even": "#7a4d00"},
    **{"s0": "#6b7280", "s1": "#0b6bcb", "s2": "#c2410c", "s3": "#15803d", "s4": "#7e3fb8", "s5": "#0e7490"},
    **{"s6": "#be185d", "s7": "#6b6f00", "s8": "#3b4a9c", "cell": "#0b57a4"},
}
DARK = {
    **{
        "page": "#0f1318",
        "card": "#181e26",
        "ink": "#e7ebf0",
        "muted": "#a6b0bb",
        "line": "#39434f",
        "link": "#7db9ff",
    },
    **{"link": "#7db9ff", "good": "#63d38a", "bad": "#ff9086", "even": "#e6b457"},
    **{"s0": "#aab2bd", "s1": "#6cb2ff", "s2": "#ff9d5c", "s3": "#5fd38a", "s4": "#c79bff", "s5": "#4fd0e0"},
    **{"s6": "#ff8ab8", "s7": "#d2d257", "s8": "#9fb0ff", "cell": "#6cb2ff"},
}
SERIES = 8  # colours of series beside s0, which is scratch's


def sheet() -> str:
    """The style sheet."""
    variables, rest = (";".join(f"--{name}:{value}" for name, value in c.items()) for c in (LIGHT, DARK))
    series = "".join(f".s{i}{{--c:var(--s{i})}}" for i in range(SERIES + 1))
    return (
        f":root{{color-scheme:light dark;{variables}}}"
        f"@media screen and (prefers-color-scheme:dark){{:root{{{rest}}}}}{series}" + RULES.read_text()
    )
