"""The style of every plot: a colour and a marker per method, and identical bytes when redrawn."""

from __future__ import annotations

import colorsys
import io
import itertools
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from etils import epath
from matplotlib import style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextToPath

from jaxfer import files

# Okabe and Ito's colours for the built-in methods; two names of one method share a colour.
COLOURS = {
    "scratch": "#7F7F7F",
    "probe": "#56B4E9",
    "full": "#D55E00",
    "lp_ft": "#CC79A7",
    "probe+full": "#CC79A7",
    "lora": "#009E73",
    "l2sp": "#E69F00",
}
# For other methods: Okabe and Ito's blue, Tol's muted colours, and dark ones, since a pale dot is lost on white.
SPARE = (
    *("#0072B2", "#882255", "#999933", "#332288", "#8C510A", "#AA4499"),
    *("#117733", "#CC6677", "#44AA99", "#5E4FA2", "#B2182B", "#2F6F7E"),
)
# Shapes tell apart what a colour-blind eye or a grey printer doesn't.
MARKERS = dict(zip(dict.fromkeys((*COLOURS.values(), *SPARE)), "XsoD^vPds<p>hXpov^", strict=True))
INK, DASHES = "#222222", ("--", ":", "-.")
drawn = style.context(
    [
        "default",  # ignore the user's matplotlibrc
        {
            **{"font.size": 13, "axes.labelsize": 13, "xtick.labelsize": 12, "ytick.labelsize": 12},
            **{"text.color": INK, "axes.labelcolor": INK, "xtick.labelcolor": INK, "ytick.labelcolor": INK},
            **{"axes.edgecolor": "#999999", "xtick.color": "#999999", "ytick.color": "#999999"},
            **{"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True},
            **{"grid.color": "#E4E4E4", "axes.formatter.useoffset": False, "text.parse_math": False},
            **{"svg.fonttype": "none", "svg.hashsalt": "jaxfer"},
        },
    ]
)


class Style(NamedTuple):
    """The look of one method: a colour `#RRGGBB` and a matplotlib marker."""

    colour: str
    marker: str


def styles(names: Iterable[str]) -> dict[str, Style]:
    """{method: its style}, no colour twice: known methods have their own, others take a free one by their hash."""
    taken: dict[str, Style] = {}
    for name in sorted(set(names), key=lambda name: (name not in COLOURS, name)):
        first = zlib.crc32(name.encode()) % len(SPARE)
        wanted = itertools.chain([COLOURS.get(name)], SPARE[first:], SPARE[:first], _more_colours())
        colour = next(c for c in wanted if c and all(c != used.colour for used in taken.values()))
        taken[name] = Style(colour, MARKERS.get(colour, "o"))
    return taken


def colour(method: str) -> str:
    """The colour `#RRGGBB` of a method when drawn alone."""
    return styles([method])[method].colour


def _more_colours() -> Iterator[str]:
    """Endless colours: hues a golden angle apart, alternately dark and medium."""
    for i in itertools.count():
        red, green, blue = colorsys.hls_to_rgb(0.05 + 0.618034 * i % 1, 0.32 + 0.2 * (i % 2), 0.6)
        yield f"#{round(255 * red):02X}{round(255 * green):02X}{round(255 * blue):02X}"


def new_figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=160, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.08)
    FigureCanvasAgg(figure)
    return figure


def text_width(texts: Iterable[str]) -> float:
    """Width of the widest text, in inches."""
    font = FontProperties(size=13)
    return max(TextToPath().get_text_width_height_descent(text, font, ismath=False)[0] for text in texts) / 72


def save(figure: Figure, path: epath.Path, *, suffixes: Sequence[str] = ("png", "svg")) -> None:
    """Writes PATH.png and PATH.svg, or one of them, atomically, without date or version: the bytes are reproducible."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    path = epath.Path(path)
    stem = path.stem if path.suffix in (".png", ".svg") else path.name
    metadata = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}
    for suffix in suffixes:
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix, metadata=metadata[suffix])
        files.write_bytes(path.parent / f"{stem}.{suffix}", buffer.getvalue())
