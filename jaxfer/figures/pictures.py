"""Augmented training examples as one picture, for `jaxfer show --pictures`."""

from __future__ import annotations

import io

import numpy as np
from etils import epath
from ml_collections import ConfigDict
from PIL import Image

from jaxfer import files
from jaxfer.data.encoding import Draw
from jaxfer.data.encodings.image import ImageEncoding
from jaxfer.data.order import batch_indices
from jaxfer.errors import InputError
from jaxfer.training.examples import training_split
from jaxfer.training.preflight import preflight

ROWS, COLUMNS = 4, 4
SIDE = 96  # pixels that the shorter side of a small image is enlarged to at least, by a whole factor
NEAR, FAR = 2, 10  # pixels between an image and its augmentation, and between pairs


def pictures(config: ConfigDict, path: str, workdir: str | epath.Path | None = None) -> str:
    """Writes a PNG of 16 training examples, each with its augmentation at its right, and says so in a line.

    They are the first 16 that the run reads, under the draws that it makes: as the model gets them, turned back into
    colours, so that an erased rectangle has the model's mean colour.

    Args:
      config: as `jaxfer.load` returns it.
      path: of the file.
      workdir: as for `jaxfer.show`.

    Raises:
      InputError: what `run` would refuse, a model that reads no images, or images that are neither grey nor RGB.
    """
    ready = preflight(config, place=None if workdir is None else epath.Path(workdir))
    encodings = ready.stages[0].spec.port.encodings
    encoding = next((encoding for encoding in encodings if isinstance(encoding, ImageEncoding)), None)
    if encoding is None:
        raise InputError(f"--pictures draws images, the model reads {encodings[0].noun}; omit it")
    if encoding.size[2] not in (1, 3):
        raise InputError(f"--pictures draws grey and RGB images, the model's have {encoding.size[2]} channels; omit it")
    stage, split = ready.experiment.stages[0][1], training_split(ready.experiment, ready.stages[0], ready.data)
    read, seed, pairs = encoding.reader(split), ready.experiment.run.seed, []
    for number in range(ROWS * COLUMNS):
        step, position = divmod(number, stage.batch_size)
        order = batch_indices(seed, step, size=len(split), batch_size=stage.batch_size)
        row, draw = order[[position]], Draw(seed, step, np.array([position]), ready.experiment.data.augment)
        pairs.append(tuple(colours(read(row, None, given)["image"][0], encoding) for given in (None, draw)))
    content = io.BytesIO()
    Image.fromarray(grid(pairs)).save(content, "PNG")
    files.write_bytes(epath.Path(path), content.getvalue())
    how = ", ".join(ready.experiment.data.augment) or "data.augment is empty, so both are alike"
    return f"pictures: {path} has {len(pairs)} training examples, each beside its augmentation ({how})"


def grid(pairs: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Pairs of uint8 [h, w, 1 or 3], of one size, row by row on white: uint8 [H, W, 3]."""
    height, width = pairs[0][0].shape[:2]
    scale = -(-SIDE // min(height, width))
    height, width = height * scale, width * scale
    across = 2 * width + NEAR + FAR
    page = np.full((ROWS * (height + FAR) + FAR, COLUMNS * across + FAR, 3), 255, np.uint8)
    for number, pair in enumerate(pairs):
        row, column = divmod(number, COLUMNS)
        top, left = FAR + row * (height + FAR), FAR + column * across
        for image in pair:
            page[top : top + height, left : left + width] = image.repeat(scale, 0).repeat(scale, 1)
            left += width + NEAR
    return page


def colours(image: np.ndarray, encoding: ImageEncoding) -> np.ndarray:
    """Float32 [h, w, c] as `normalize` makes it -> uint8."""
    mean, std = (np.asarray(values, np.float32) for values in (encoding.mean, encoding.std))
    return np.rint((image * std + mean) * 255).clip(0, 255).astype(np.uint8)
