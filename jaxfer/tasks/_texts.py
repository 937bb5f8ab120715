"""Metrics of written texts, by the field's own packages: ROUGE, BLEU, word error rate; the extra `text-metrics`."""

from __future__ import annotations

import importlib
import importlib.util
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxfer.errors import InputError

EXTRA = "text-metrics"
# {metric family: (package, its module)}
PACKAGES = {
    "rouge": ("rouge-score", "rouge_score.rouge_scorer"),
    "bleu": ("sacrebleu", "sacrebleu"),
    "wer": ("jiwer", "jiwer"),
}
ROUGE = ("rouge1", "rouge2", "rougeL")
# {metric family: {metric: whether more of it is better}}
METRICS = {"rouge": dict.fromkeys(ROUGE, True), "bleu": {"bleu": True}, "wer": {"wer": False}}


def check(families: Sequence[str]) -> None:
    """`InputError` for a family whose package is missing."""
    for family in families:
        package, module = PACKAGES[family]
        if importlib.util.find_spec(module.split(".")[0]) is None:
            raise InputError(
                f"metric {family!r} needs the package {package}: pip install 'jaxfer[{EXTRA}]', or leave it out of "
                "config.task.metrics"
            )


def scored(families: Sequence[str], found: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """{metric: value} of written texts.

    ROUGE (Lin, 2004) is the mean F-measure of the examples, stemmed, a fraction; BLEU (Papineni et al., 2002) that of
    the corpus, from 0 to 100, as sacrebleu's default (13a, arXiv:1804.08771) has it; the word error rate that of the
    corpus, a fraction that can exceed 1.

    Args:
      families: of `METRICS`.
      found: what was written.
      references: likewise, one a text.
    """
    check(families)
    metrics: dict[str, float] = {}
    for family in families:
        metrics |= _SCORES[family](importlib.import_module(PACKAGES[family][1]), list(found), list(references))
    return metrics


def _rouge(package: Any, found: list[str], references: list[str]) -> dict[str, float]:
    scorer = package.RougeScorer(list(ROUGE), use_stemmer=True)
    scores = [scorer.score(reference, text) for text, reference in zip(found, references, strict=True)]
    return {name: float(np.mean([score[name].fmeasure for score in scores])) for name in ROUGE}


def _bleu(package: Any, found: list[str], references: list[str]) -> dict[str, float]:
    return {"bleu": float(package.corpus_bleu(found, [references]).score)}


def _wer(package: Any, found: list[str], references: list[str]) -> dict[str, float]:
    kept = [i for i, reference in enumerate(references) if reference.strip()]  # no words, no rate
    if not kept:
        return {"wer": 0.0}
    return {"wer": float(package.wer([references[i] for i in kept], [found[i] for i in kept]))}


_SCORES: dict[str, Callable[..., dict[str, float]]] = {"rouge": _rouge, "bleu": _bleu, "wer": _wer}


def plain(text: str) -> str:
    """Lower case, without punctuation and symbols, one space between words."""
    text = unicodedata.normalize("NFKC", text).lower().replace("'", "")
    marks = ("P", "S")
    return " ".join(
        re.sub(r"\s+", " ", "".join(" " if unicodedata.category(c)[0] in marks else c for c in text)).split()
    )
