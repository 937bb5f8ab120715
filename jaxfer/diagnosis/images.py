"""Images that show little, as the model reads them, and files of an odd shape or size. Test images are looked at too.

Thresholds of brightness are those of the brightest and the darkest hundredth of an image's pixels, so that a drawing on
black or white paper is neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from jaxfer.diagnosis.finding import SEVERE, WARNING, Example, Finding, graded, percent
from jaxfer.diagnosis.opened import Opened, Pictures
from jaxfer.diagnosis.shortcuts import shortcut

BLANK = 2.0  # levels (of 255): standard deviation
DARK, BRIGHT = 64.0, 230.0  # levels: the 99th percentile below, the 1st above
BLURRY = 0.02  # of the median variance of the Laplacian
ASPECT = 2.0  # times the median of the longer side to the shorter one
SMALL = 0.5  # of the model's size
SHORTCUT = {SEVERE: 0.99, WARNING: 0.8}  # balanced accuracy of brightness, sharpness or size alone
SHARE = 0.01  # of a split, from which on it is a warning
UPSCALED = 0.1  # likewise, of images that are smaller than half of what the model reads


def check(opened: Opened) -> Iterator[Finding]:
    """One finding of each kind for each split."""
    everything = [pictures.sharp for pictures in opened.pictures.values()]
    median = float(np.median(np.concatenate(everything))) if everything else 0.0
    sizes = [pictures.sizes for pictures in opened.pictures.values()]
    aspect = float(np.median(_aspects(np.concatenate(sizes)))) if sizes else 1.0
    for name, pictures in opened.pictures.items():
        yield from _of(opened, name, pictures, median, aspect)
    if opened.one_class and opened.pictures:
        yield from _shortcuts(opened, opened.pictures["train"])


def _shortcuts(opened: Opened, pictures: Pictures) -> Iterator[Finding]:
    """What of a picture, besides what it shows, gives its class away."""
    labels, fix = opened.splits["train"].labels, "take pictures of all classes alike; compare groups (data.group)"
    about = {
        "brightness": np.stack([pictures.mean, pictures.spread], 1),
        "sharpness": pictures.sharp[:, None],
        "size of the file's image": pictures.sizes,
    }
    says = {
        "brightness": lambda i: f"mean {pictures.mean[i]:.0f}, spread {pictures.spread[i]:.0f}",
        "sharpness": lambda i: f"variance of the Laplacian {pictures.sharp[i]:.3g}",
        "size of the file's image": lambda i: "{1} x {0}".format(*pictures.sizes[i]),
    }
    classes = opened.data.classes
    for what, x in about.items():
        if len(np.unique(x, axis=0)) > 1:

            def some(rows: np.ndarray, says: Callable[[int], str] = says[what]) -> tuple[Example, ...]:
                return opened.some("train", rows, lambda i: f"{says(i)}, class {classes[labels[i]]}")

            yield from shortcut(f"The {what}", x, labels, SHORTCUT, fix, some)


def _of(opened: Opened, name: str, pictures: Pictures, median: float, aspect: float) -> Iterator[Finding]:
    def told(kind: str, found: np.ndarray, what: str, says: Callable[[int], str], fix: str) -> Any:
        if not found.any():
            return
        share = float(found.mean())
        severity, threshold = graded(share, None, UPSCALED if kind == "small" else SHARE)
        if kind == "blank":
            severity, threshold = graded(share, None if name == "test" else SHARE, 0.0)
        yield Finding(
            severity=severity,
            kind=kind,
            message=f"{int(found.sum()):,} of {len(found):,} images of {name} ({percent(share)}) are {what}.",
            fix=fix,
            value=share,
            threshold=threshold,
            examples=opened.some(name, np.flatnonzero(found), says),
        )

    look, blank = "look at them; remove or replace those that show nothing", pictures.spread < BLANK
    yield from told(
        "blank",
        blank,
        f"of one colour (spread below {BLANK:g} of 255)",
        lambda i: f"spread {pictures.spread[i]:.1f}",
        "remove them, or decode them again",
    )
    yield from told(
        "dark",
        (pictures.dark < DARK) & ~blank,
        f"dark: 99 % of their pixels are below {DARK:g} of 255",
        lambda i: f"{pictures.dark[i]:.0f}",
        look,
    )
    yield from told(
        "bright",
        (pictures.bright > BRIGHT) & ~blank,
        f"bright: 99 % of their pixels are above {BRIGHT:g} of 255",
        lambda i: f"{pictures.bright[i]:.0f}",
        look,
    )
    yield from told(
        "blurry",
        (pictures.sharp < BLURRY * median) & ~blank & (pictures.dark >= DARK) & (pictures.bright <= BRIGHT),
        f"blurry: the variance of their Laplacian is below {BLURRY:g} of the median",
        lambda i: f"{pictures.sharp[i] / median:.3f} of the median",
        look,
    )
    yield from told(
        "aspect",
        _aspects(pictures.sizes) > ASPECT * aspect,
        f"of an odd shape: more than {ASPECT:g} times as long as the median, for their width",
        lambda i: "{1} x {0}".format(*pictures.sizes[i]),
        "crop them, or set config.model.resize to keep their shape",
    )
    size = opened.encoding("image").size[:2]
    yield from told(
        "small",
        (pictures.sizes < SMALL * np.asarray(size)).any(1),
        f"smaller than half of the {size[1]} x {size[0]} that the model reads",
        lambda i: "{1} x {0}".format(*pictures.sizes[i]),
        "use the original files, or lower config.model.image",
    )


def _aspects(sizes: np.ndarray) -> np.ndarray:
    """The longer side to the shorter one: lying and standing photos are of one shape."""
    return sizes.max(1) / sizes.min(1)
