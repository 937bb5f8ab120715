"""A class for every pixel: cross-entropy over the labelled ones, mean intersection over union."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxfer.data.encoding import Draw, Encoding, Fields
from jaxfer.data.encodings.image import OUTSIDE
from jaxfer.data.split import Split
from jaxfer.errors import InputError
from jaxfer.task import Answer, Mean, Task, ranked

NONE = -1  # the class of a pixel that has none
BATCH = 32  # masks that are read at once


def task() -> Task:
    """Softmax over the classes at every pixel of the model's input.

    Metrics are of the pixels as the model gets them, labels resized to them (the nearest each), not of the photo's own.
    mIoU is Pascal VOC's (Everingham et al., 2015, doi:10.1007/s11263-014-0733-5, 4.2): each class's intersection over
    its union, both counted over the whole split, and their mean; a class that occurs in no mask and in no answer is
    left out, and `miou_classes` says how many were not.
    """
    return Task(
        outputs=_outputs,
        head="dense",
        target="mask",
        shapes=lambda n, outputs, fields: {"segments": jax.ShapeDtypeStruct(fields["image"].shape[:3], "int32")},
        targets=_targets,
        loss=lambda outputs, batch, hparams: _cross_entropy(outputs, batch),
        scores=_scores,
        collect=_collect,
        gathered=lambda collected, split: iou(collected["confusion"].sum(0, dtype=np.int64)),
        answer=_answer,
        monitor="miou",
        maximize=True,
        metrics={"pixel_accuracy": True},
    )


def _outputs(classes: int) -> int:
    if classes < 2:
        raise InputError(
            f"task 'segmentation' needs at least 2 classes, the data has {classes}; use data with masks of classes"
        )
    return classes


def _targets(split: Split, rows: np.ndarray, encoded: Fields, draw: Draw | None) -> Fields:
    """`segments`, int32 [b, height, width]: the class of each pixel, else `NONE`; data without masks have none."""
    if "mask" not in encoded:
        return {"segments": np.full(encoded["image"].shape[:3], NONE, np.int32)}
    return {"segments": np.where(encoded["mask"] == OUTSIDE, NONE, encoded["mask"].astype(np.int32))}


def _cross_entropy(outputs, batch):
    kept = batch["segments"] != NONE
    nll = optax.softmax_cross_entropy_with_integer_labels(
        outputs.astype(jnp.float32), jnp.where(kept, batch["segments"], 0)
    )
    return _mean(nll, kept)


def _scores(outputs, batch):
    hit = (outputs.argmax(-1) == batch["segments"]).astype(jnp.float32)
    return {"loss": _cross_entropy(outputs, batch), "pixel_accuracy": _mean(hit, batch["segments"] != NONE)}


def _mean(values, kept):
    return Mean.over(values.reshape(len(values), -1), kept.reshape(len(kept), -1))


def _collect(outputs, batch):
    """Counts of pixels, int32: `confusion` [b, true class, answered class], `area` [b, answered class]."""
    classes = outputs.shape[-1]
    # One row a pixel; that of `NONE` is zero. Products of ones are exact in any precision, sums below 2**24 in float32.
    true, answered = (
        jax.nn.one_hot(pixels.reshape(len(outputs), -1), classes, dtype=jnp.float32)
        for pixels in (batch["segments"], outputs.argmax(-1))
    )
    confusion = jnp.einsum("bpi,bpj->bij", true, answered)
    return {"confusion": confusion.astype(jnp.int32), "area": answered.sum(1).astype(jnp.int32)}


def iou(confusion: np.ndarray) -> dict[str, float]:
    """`miou` and `miou_classes`, the number of classes it is the mean of, from counts [true class, answered class]."""
    both, either = np.diag(confusion), confusion.sum(0) + confusion.sum(1) - np.diag(confusion)
    occurs = either > 0
    miou = float(np.mean(both[occurs] / either[occurs])) if occurs.any() else 0.0
    return {"miou": miou, "miou_classes": float(occurs.sum())}


def constant(split: Split, encoding: Encoding, classes: int, answer: int = 0) -> dict[str, float]:
    """{metric: value} of a mask that is one class everywhere (0: the background), which a model has to beat."""
    counts, read = np.zeros(classes, np.int64), encoding.reader(split)
    for begin in range(0, len(split), BATCH):
        masks = read(np.arange(begin, min(begin + BATCH, len(split))), None, None)["mask"]
        counts += np.bincount(masks[masks != OUTSIDE], minlength=classes)
    confusion = np.zeros((classes, classes), np.int64)
    confusion[:, answer] = counts
    return {"pixel_accuracy": float(counts[answer] / max(counts.sum(), 1)), **iou(confusion)}


def _answer(collected: Mapping[str, np.ndarray], classes: Sequence[str], example: Any) -> Answer:
    """The classes that the mask has, the largest first, and the share of the pixels of each."""
    shares = ranked(collected["area"] / collected["area"].sum(), classes)
    return Answer(labels=tuple(name for name, share in shares.items() if share > 0), probabilities=shares)
