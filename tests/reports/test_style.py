"""Contrasts by WCAG 2.2: 4.5 for text, 3 for lines and shapes, in light and in dark."""

import itertools

import pytest

from jaxfer.reports.style import DARK, LIGHT, SERIES, sheet


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def mixed(front, back, opacity):
    pairs = ((int(front[i : i + 2], 16), int(back[i : i + 2], 16)) for i in (1, 3, 5))
    return "#" + "".join(f"{round(opacity * a + (1 - opacity) * b):02x}" for a, b in pairs)


def test_the_formula():
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)


@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
def test_text_and_shapes_stand_out(scheme):
    for text, back in itertools.product(("ink", "muted", "link", "good", "bad", "even"), ("page", "card")):
        assert contrast(scheme[text], scheme[back]) >= 4.5, (text, back)
    for series in range(SERIES + 1):
        assert contrast(scheme[f"s{series}"], scheme["page"]) >= 4.5, series  # a rate is written on it


@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
def test_counts_in_a_confusion_can_be_read(scheme):
    from jaxfer.reports.grids import DARKER, opacity

    for share in (i / 200 for i in range(201)):
        cell = mixed(scheme["cell"], scheme["page"], opacity(share))
        assert contrast(scheme["page" if opacity(share) > DARKER else "ink"], cell) >= 4.5, share


def test_every_colour_is_a_variable():
    assert set(LIGHT) == set(DARK) and all(f"--{name}:" in sheet() for name in LIGHT)
    assert "url(" not in sheet() and "@import" not in sheet() and "http" not in sheet()
