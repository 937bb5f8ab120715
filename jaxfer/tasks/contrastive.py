"""Images and their texts, told from those of other pairs: CLIP's loss and SigLIP's, and retrieval both ways."""

from __future__ import annotations

from collections.abc import Hashable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.special import logsumexp

from jaxfer.data.split import Split
from jaxfer.errors import InputError, nearest
from jaxfer.task import Mean, Task

LOSSES = ("softmax", "sigmoid")
PLACES = (1, 5, 10)
CHUNK = 1024  # rows of the table of scores at a time


def task(*, loss: str = "softmax") -> Task:
    """Pairs of an image and a text through two towers.

    Metrics are of the whole split, whatever the batches: `image_to_text@K`, the share of images with one of their texts
    among the first K of all texts, and `text_to_image@K` for K of 1, 5 and 10; `image_to_text_rank` and
    `text_to_image_rank`, the median place of the first right one, from 1; `recall@1`, the mean of both directions; and
    `loss`, of the split as one batch. Equal images, and equal texts, count as one. Wrong ones with the same score come
    before the right one.

    Args:
      loss: `softmax`: cross-entropy over the texts of a batch for each image and over its images for each text, half of
        each (Radford et al., 2021, arXiv:2103.00020, fig. 3); `sigmoid`: a binary one for every image with every text,
        summed over the texts (Zhai et al., 2023, arXiv:2303.15343, eq. 1). The temperature, and SigLIP's bias, are
        learned by the model's head.
    """
    if loss not in LOSSES:
        raise InputError(f"unknown config.task.loss {loss!r}{nearest(str(loss), LOSSES)}")
    of_batch, of_split = {"softmax": (softmax, _whole_softmax), "sigmoid": (sigmoid, _whole_sigmoid)}[loss]

    def gathered(found: np.ndarray, split: Split) -> dict[str, float]:
        images, texts = found[:, 0].astype(np.float32), found[:, 1].astype(np.float32)
        named = _retrieval(images, texts, _numbered(split, "image"), _numbered(split, "text"))
        return {**named, "loss": of_split(images, texts)}

    return Task(
        outputs=lambda classes: 0,
        head="pair",
        target="",
        whole_batch=True,
        targets=_no_targets,
        shapes=lambda n, outputs, fields: {},
        loss=lambda outputs, batch, hparams: Mean(of_batch(outputs)),
        scores=lambda outputs, batch: {"loss": Mean(of_batch(outputs))},
        gathered=gathered,
        monitor="recall@1",
        maximize=True,
        metrics={
            **{f"{way}@{k}": True for way in ("image_to_text", "text_to_image") for k in PLACES},
            **{f"{way}_rank": False for way in ("image_to_text", "text_to_image")},
        },
    )


def _no_targets(split, rows, encoded, draw):
    return {}


def logits(outputs: jax.Array) -> jax.Array:
    """[batch, 2, width] of the head `pair` -> [images, texts] float32."""
    outputs = outputs.astype(jnp.float32)
    return jnp.matmul(outputs[:, 0], outputs[:, 1].T, precision="highest")


def softmax(outputs: jax.Array) -> jax.Array:
    """CLIP's loss of each pair, [batch]: the mean of the image's and the text's."""
    table, own = logits(outputs), jnp.arange(len(outputs))
    ways = (optax.softmax_cross_entropy_with_integer_labels(way, own) for way in (table, table.T))
    return sum(ways) / 2


def sigmoid(outputs: jax.Array) -> jax.Array:
    """SigLIP's loss of each image, [batch]: the sum over all texts."""
    table = logits(outputs)
    return -jax.nn.log_sigmoid(jnp.where(jnp.eye(len(table), dtype=bool), table, -table)).sum(1)


def _tables(queries: np.ndarray, candidates: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(first query, [queries of a chunk, candidates] float32)."""
    for begin in range(0, len(queries), CHUNK):
        yield begin, queries[begin : begin + CHUNK] @ candidates.T


def _whole_softmax(images: np.ndarray, texts: np.ndarray) -> float:
    ways = (logsumexp(table, axis=1) for pair in ((images, texts), (texts, images)) for _, table in _tables(*pair))
    own = np.einsum("nd,nd->n", images, texts, dtype=np.float64)
    return float(np.concatenate(list(ways)).mean(dtype=np.float64) - own.mean())


def _whole_sigmoid(images: np.ndarray, texts: np.ndarray) -> float:
    total = 0.0
    for begin, table in _tables(images, texts):
        own = np.arange(len(table))
        table[own, begin + own] *= -1
        total += np.logaddexp(0, table).sum(dtype=np.float64)
    return float(total / len(images))


def _numbered(split: Split, name: str) -> np.ndarray:
    """A number for each example of a split, the same for equal inputs: int [n]."""
    column = split.columns.get(name)
    identity = getattr(column, "name", None) or getattr(column, "key", None)
    if identity is None:
        return np.arange(len(split))
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(identity(int(row)), len(numbers)) for row in split.rows])


def _retrieval(images: np.ndarray, texts: np.ndarray, image: np.ndarray, text: np.ndarray) -> dict[str, float]:
    found = {}
    for way, places in (
        ("image_to_text", first_places(images, texts, image, text)),
        ("text_to_image", first_places(texts, images, text, image)),
    ):
        found |= {f"{way}@{k}": float((places <= k).mean()) for k in PLACES}
        found[f"{way}_rank"] = float(np.median(places))
    return {**found, "recall@1": (found["image_to_text@1"] + found["text_to_image@1"]) / 2}


def first_places(queries: np.ndarray, candidates: np.ndarray, query: np.ndarray, candidate: np.ndarray) -> np.ndarray:
    """The place of the best right candidate of each query, from 1: int [different queries].

    Args:
      queries: [pairs, width].
      candidates: likewise.
      query: which query each pair has, from 0 in order of first occurrence: int [pairs].
      candidate: likewise; a candidate is right for a query where some pair has both.
    """
    pairs = np.unique(np.stack([query, candidate], 1), axis=0)  # ordered by query
    queries, candidates = (
        rows[np.unique(number, return_index=True)[1]] for rows, number in ((queries, query), (candidates, candidate))
    )
    places = []
    for begin, table in _tables(queries, candidates):
        own = pairs[(pairs[:, 0] >= begin) & (pairs[:, 0] < begin + len(table))]
        right = np.zeros(table.shape, bool)
        right[own[:, 0] - begin, own[:, 1]] = True
        best = np.where(right, table, -np.inf).max(1, keepdims=True)
        places.append(1 + ((table >= best) & ~right).sum(1))
    return np.concatenate(places)
