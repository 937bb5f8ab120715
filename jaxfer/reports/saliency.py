"""What a classifier's single mistakes rest on: pictures and texts with the shares of their places in the answer."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from jaxfer.data.encodings.image import ImageEncoding
from jaxfer.data.encodings.text import TextEncoding
from jaxfer.data.encodings.tokenizers import load_tokenizer
from jaxfer.data.loader import Feed, eval_batches
from jaxfer.data.split import Split
from jaxfer.evals.attribution import STEPS, Attributed, Attribution
from jaxfer.figures.pictures import colours
from jaxfer.network import Network
from jaxfer.reports import numbers
from jaxfer.reports.markup import Markup, tag
from jaxfer.reports.page import Part, paragraph
from jaxfer.reports.tables import Cell, table, text, whole

FOR, AGAINST = (213, 94, 0), (0, 114, 178)  # also told apart by those who see no red
CHARACTERS = 400  # of a text that is shown
LEAST, WORK = 4, 200_000_000  # examples; examples times parameters, some ten seconds on a few cores


class Shown(NamedTuple):
    """What is shown of one example: small pictures, or its text with shares as colours.

    Attributes:
      views: (a picture, what it shows).
      text: with shares as colours.
      error: share of the change of the logit that the integrated gradients miss.
      tokens: (token, what it adds to the logit) of a text.
    """

    views: tuple[tuple[np.ndarray, str], ...]
    text: Markup | None
    error: float
    tokens: tuple[tuple[str, float], ...] = ()


def shown(network: Network, split: Split, rows: Sequence[int], labels: Sequence[int]) -> list[Shown]:
    """One for each of the first rows of the split, fewer of a large network; [] where it can't be asked.

    Args:
      network: a classifier.
      split: of examples.
      rows: which of them.
      labels: the class of each whose logit is explained.
    """
    asked, encoding = Attribution(network), network.port.encoding
    if not asked.reads or not isinstance(encoding, ImageEncoding | TextEncoding):
        return []
    found, size = [], sum(leaf.size for leaf in jax.tree.leaves(network.params))
    count = max(LEAST, WORK // max(size, 1))
    for row, label in list(zip(rows, labels, strict=True))[:count]:
        one = split.take(np.array([row])).sealed()
        (batch,) = eval_batches(Feed(split=one, encodings=network.port.encodings), batch_size=1)
        fields = {name: batch[name] for name in network.port.inputs}
        answer = asked(fields, {**fields, network.port.inputs[0]: _blank(encoding, fields)}, int(label))
        if isinstance(encoding, ImageEncoding):
            image = colours(batch[network.port.inputs[0]][0], encoding)
            found.append(Shown(_views(image, answer), None, answer.error))
        else:
            ids = encoding.reader(one).ids
            words: Any = load_tokenizer(encoding)[0].convert_ids_to_tokens(ids.tolist())
            tokens = tuple(zip(words, answer.places[: len(ids)].tolist(), strict=True))
            found.append(Shown((), _text(tokens), answer.error, tokens))
    return found


def _blank(encoding: ImageEncoding | TextEncoding, fields: Mapping[str, np.ndarray]) -> np.ndarray:
    """The mean image, or padding in place of every token."""
    given = fields[next(iter(fields))]
    if isinstance(encoding, ImageEncoding):
        return np.zeros_like(given)
    return np.full_like(given, load_tokenizer(encoding)[0].pad_token_id)


def note(found: Iterable[Shown]) -> Part:
    """What the colours mean, and how exact they are."""
    found = list(found)
    errors = sorted(one.error for one in found)
    drawn = "Below a picture: integrated gradients, and Grad-CAM. " if any(one.views for one in found) else ""
    told = f"median {numbers.percent(statistics.median(errors))}, largest {numbers.percent(errors[-1])}"
    return paragraph(
        f"{drawn}Orange adds to the class that was chosen, blue takes from it. Integrated gradients begin at a "
        f"mean image, or at padding, and take {STEPS} steps; of the change of the logit they miss: {told}.",
        muted=True,
    )


def shares(found: Sequence[Shown], rows: Sequence[int]) -> list[Part]:
    """What each token adds to the logit, and what all of them miss; [] of images.

    Args:
      found: of texts.
      rows: of the split's source, one for each.
    """
    cells = [
        [whole(row), text(token), Cell(share, numbers.signed(share)), Cell(one.error, numbers.percent(one.error))]
        for row, one in zip(rows, found, strict=False)
        for token, share in one.tokens
    ]
    if not cells:
        return []
    headers = ("row", "token", "adds to the logit", "the text's shares miss")
    summary = tag("summary", "What each token adds, as a table")
    return [
        Part(content=tag("details", summary, table(headers, cells, link="tokens", label="Tokens")), name="table tokens")
    ]


def _views(image: np.ndarray, answer: Attributed) -> tuple[tuple[np.ndarray, str], ...]:
    views = [(_over(image, _scaled(answer.places)), "integrated gradients")]
    if answer.cam is not None:
        height, width = image.shape[:2]
        cam = Image.fromarray(answer.cam.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
        views.append((_over(image, np.clip(np.asarray(cam, np.float64), 0, 1)), "Grad-CAM"))
    return tuple(views)


def _scaled(places: np.ndarray) -> np.ndarray:
    """In [-1, 1]: 1 is what one place in a hundred exceeds."""
    most = np.quantile(np.abs(places), 0.99) if places.size > 100 else np.abs(places).max(initial=0)
    return np.clip(places / most, -1, 1) if most > 0 else np.zeros_like(places)


def _over(image: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Colours over the grey image, uint8 [height, width, 3]."""
    grey = np.repeat(image.astype(np.float64).mean(-1, keepdims=True), 3, -1) * 0.5 + 96
    tint = np.where(shares[..., None] >= 0, np.array(FOR, np.float64), np.array(AGAINST, np.float64))
    strength = np.abs(shares)[..., None] * 0.85
    return np.round(grey * (1 - strength) + tint * strength).astype(np.uint8)


def _text(tokens: Sequence[tuple[str, float]]) -> Markup:
    shares, pieces, length = _scaled(np.array([share for _, share in tokens])), [], 0
    for (token, exact), share in zip(tokens, shares, strict=True):
        inside = token.startswith("##")
        word = token.removeprefix("##").replace("Ġ", " ").replace("▁", " ")
        colour = FOR if share >= 0 else AGAINST
        style = f"background:rgba({colour[0]},{colour[1]},{colour[2]},{abs(share) * 0.4:.2f})"
        space = "" if inside or not pieces or word.startswith(" ") else " "
        pieces.append(Markup(space + tag("span", word, style=style, title=f"{exact:+.3f}")))
        length += len(word)
        if length > CHARACTERS:
            pieces.append(Markup("…"))
            break
    return tag("q", *pieces)
