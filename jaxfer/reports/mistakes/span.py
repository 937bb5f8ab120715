"""What answers to questions get wrong on val: how many are right in part, and the most confident mistakes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxfer.data.split import Split
from jaxfer.reports import charts, examples, numbers
from jaxfer.reports.looked import Looked
from jaxfer.reports.markup import tag
from jaxfer.reports.page import Part, Section
from jaxfer.reports.tables import Cell, text, whole
from jaxfer.tasks.span import normalized, word_f1


def sections(result: Mapping[str, Any], seen: Looked | None) -> list[Section]:
    """Its errors; nothing where it was not looked at again."""
    return [] if seen is None else [section(seen.val, seen.collected)]


def section(split: Split, found: Mapping[str, np.ndarray]) -> Section:
    """The errors of a run.

    Args:
      split: val.
      found: `start`, `end` and `score` of each answer, the first two in characters of its context.
    """
    answers = [split.example("text", i)[1][found["start"][i] : found["end"][i]] for i in range(len(split))]
    truths = [[said for _, said in split.example("spans", i)] for i in range(len(split))]
    exact = np.array([any(normalized(a) == normalized(t) for t in ts) for a, ts in zip(answers, truths, strict=True)])
    f1 = np.array([max(word_f1(a, t) for t in ts) for a, ts in zip(answers, truths, strict=True)])
    apart = ~exact & (f1 == 0)
    title = f"{(~exact).sum():,} of {len(split):,} answers of val are not exact, and {apart.sum():,} share no word"
    counts = {"exact": exact, "some of the words": ~exact & ~apart, "none of the words": apart}
    return Section(
        name="Errors", title=title, parts=[_kinds(counts), *_mistakes(split, found, answers, truths, exact, f1)]
    )


def _kinds(counts: Mapping[str, np.ndarray]) -> Part:
    title, about = (
        "How right the answers are",
        "Without case, punctuation and articles, as SQuAD's script compares them.",
    )
    numbers_of = {name: int(which.sum()) for name, which in counts.items()}
    drawn = charts.bars("answers", title, numbers_of, x_name="answers")
    rows = [[text(name), whole(count)] for name, count in numbers_of.items()]
    return charts.figure("answers", title, about, drawn, ("answer", "questions"), rows)


def _mistakes(
    split: Split,
    found: Mapping[str, np.ndarray],
    answers: list[str],
    truths: list[list[str]],
    exact: np.ndarray,
    f1: np.ndarray,
) -> list[Part]:
    """Those whose answer has the highest sum of logits first."""
    wrong = np.flatnonzero(~exact)
    order, items, rows = wrong[np.argsort(-found["score"][wrong], kind="stable")][: examples.SHOWN], [], []
    for i in order:
        row, question = int(split.rows[i]), split.example("text", i)[0]
        said, truth = answers[i][: examples.WORDS], " / ".join(dict.fromkeys(truths[i]))
        told = tag("strong", said or "no word"), tag("br"), f"truly {truth}", tag("br")
        items.append(tag("li", examples.quoted(question), *told, tag("span", f"row {row}", class_="muted")))
        values = (Cell(float(x), numbers.score(x)) for x in (f1[i], found["score"][i]))
        rows.append([whole(row), text(question[: examples.WORDS]), text(said), text(truth), *values])
    headers = ("row", "question", "answer", "true answers", "F1", "sum of logits")
    return examples.listing("The most confident mistakes first", items, rows, headers, of=len(wrong), images=False)
