"""What an augmentation is: it draws changes from an example's size and a generator, and the changes act on values.

Drawing knows nothing of the pixels, so an image and its mask are moved alike by two generators in the same state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from jaxfer.errors import InputError

Size = tuple[int, int]  # height and width; of other examples as their functions say
Rectangle = tuple[int, int, int, int]  # top, left, height, width


@dataclass(frozen=True, eq=False)
class Change:
    """What was drawn for one example.

    Attributes:
      apply: (pixels [h, w, c], the name of a filter in `pixels.INTERPOLATIONS`) -> pixels of the same shape and type;
        it leaves its input as it is. Sounds and texts have no use for the filter; a text (`token`) may become shorter.
      moves: whether it moves pixels, or tokens; a mask follows, and is left alone by what does not.
    """

    apply: Callable[[np.ndarray, str], np.ndarray]
    moves: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Augmentation:
    """One entry of `AUGMENTATIONS`, by one of `draw`, `rectangle` and `rewrite`.

    Attributes:
      draw: (generator, size, the options but `p`) -> changes, applied in this order.
      rectangle: likewise, what a crop cuts out; it is resized to the size wanted.
      rewrite: (generator, text, the options) -> text, before it is tokenized, whatever comes before it in the list.
      options: {name: (default, least, most)}; an integer default takes integers, a text a text, without bounds. `p` is
        the probability with which it is drawn at all.
      of: the column it is for.
      colours: whether it needs 8-bit images, grey or RGB.
      masks: whether a mask can follow.
      last: whether it acts on the normalised pixels, or on the spectrogram, after everything else.
    """

    draw: Callable[..., tuple[Change, ...]] | None = None
    rectangle: Callable[..., Rectangle] | None = None
    rewrite: Callable[..., str] | None = None
    options: Mapping[str, tuple[float | str, float, float]] = field(default_factory=dict)
    of: str = "image"
    colours: bool = False
    masks: bool = True
    last: bool = False


def colours(*functions: Callable[[Image.Image], Image.Image]) -> Change:
    """A change by Pillow of an 8-bit image, grey or RGB, which moves no pixel: the functions in this order."""

    def changed(image: np.ndarray, filter: str) -> np.ndarray:
        grey = image.shape[2] == 1
        picture = Image.fromarray(np.ascontiguousarray(image[..., 0] if grey else image))
        for function in functions:
            picture = function(picture)
        found = np.asarray(picture)
        return found[..., None] if grey else found

    return Change(changed)


def check_colours(name: str, image: np.ndarray) -> None:
    """`InputError` unless the image is 8-bit, grey or RGB."""
    if image.dtype != np.uint8 or image.shape[2] not in (1, 3):
        found = f"{image.dtype} with {image.shape[2]} channels"
        raise InputError(f"{name} needs 8-bit images, grey or RGB, found {found}; remove it from data.augment")


def bands(image: np.ndarray, apply: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    """A change by Pillow of any image: 8-bit RGB as one picture, others channel by channel."""
    if image.dtype == np.uint8 and image.shape[2] == 3:
        return np.asarray(apply(Image.fromarray(np.ascontiguousarray(image))))
    channels = (Image.fromarray(np.ascontiguousarray(image[..., c])) for c in range(image.shape[2]))
    return np.stack([np.asarray(apply(channel)) for channel in channels], axis=2)
