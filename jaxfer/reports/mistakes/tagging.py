"""What tags of words get wrong on val: each kind of entity's score, and the sentences with the most mistakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxfer.data.split import Split
from jaxfer.reports import charts, examples, numbers
from jaxfer.reports.looked import Looked
from jaxfer.reports.markup import joined, tag
from jaxfer.reports.page import Part, Section
from jaxfer.reports.tables import score, text, whole
from jaxfer.tasks.tagging import by_word, entities

Entity = tuple[str, int, int]  # kind, first and last word


class Sentence(NamedTuple):
    """The words of one, the true entities and those that were found."""

    words: tuple[str, ...]
    true: frozenset[Entity]
    found: frozenset[Entity]


def sections(result: Mapping[str, Any], seen: Looked | None) -> list[Section]:
    """Its errors; nothing where it was not looked at again."""
    return [] if seen is None else [section(seen.val, sentences(seen.val, seen.collected))]


def sentences(split: Split, collected: Mapping[str, Any]) -> list[Sentence]:
    """Each sentence of a split; where no tag is `B-` or `I-` something, each word is an entity of its tag's kind."""
    names, column, read = split.columns["tags"].names, split.input[0], []
    marked = any(name.startswith(("B-", "I-")) for name in names)

    def told(tags: Sequence[str]) -> frozenset[Entity]:
        return frozenset(entities(tags) if marked else ((kind, i, i) for i, kind in enumerate(tags)))

    for i, (tags, words) in enumerate(zip(collected["tags"], collected["words"], strict=True)):
        true = [names[tag] for tag in split.example("tags", i)]
        read.append(Sentence(split.example(column, i), told(true), told(by_word(tags, words, len(true), names))))
    return read


def section(split: Split, read: Sequence[Sentence]) -> Section:
    """The errors of a run."""
    true, right = sum(len(s.true) for s in read), sum(len(s.true & s.found) for s in read)
    extra = sum(len(s.found - s.true) for s in read)
    title = f"{right:,} of the {true:,} entities of val are found, and {extra:,} that are not there"
    return Section(name="Errors", title=title, parts=[_by_kind(read), *_mistakes(split, read)])


def _by_kind(read: Sequence[Sentence]) -> Part:
    kinds, values, rows = sorted({kind for s in read for kind, _, _ in s.true | s.found}), {}, []
    for kind in kinds:
        true, found, right = (
            sum(one[0] == kind for s in read for one in part(s))
            for part in (lambda s: s.true, lambda s: s.found, lambda s: s.true & s.found)
        )
        values[kind] = 2 * right / (true + found)
        scores = (right / found if found else None, right / true if true else None, values[kind])
        rows.append([text(kind), *map(whole, (true, right, true - right, found - right)), *map(score, scores)])
    title, headers = "Each kind", ("kind", "in val", "found", "missed", "not there", "precision", "recall", "F1")
    about = "F1 of each kind of entity: its kind and both of its ends have to be right."
    drawn = charts.bars("kinds", title, values, x_name="F1", show=numbers.score)
    return charts.figure("kinds", title, about, drawn, headers, rows)


def _mistakes(split: Split, read: Sequence[Sentence]) -> list[Part]:
    """The sentences with the most mistakes first."""
    wrong = {i: len(s.true ^ s.found) for i, s in enumerate(read) if s.true != s.found}
    order, items, rows = sorted(wrong, key=lambda i: -wrong[i])[: examples.SHOWN], [], []
    for i in order:
        missed, extra = (
            _quoted(read[i].words, part) for part in (read[i].true - read[i].found, read[i].found - read[i].true)
        )
        said = [(what, which) for what, which in (("missed", missed), ("not there", extra)) if which]
        told = joined((joined((tag("strong", what), f": {which}")) for what, which in said), tag("br"))
        row, sentence = int(split.rows[i]), " ".join(read[i].words)
        where = tag("span", f"row {row}", class_="muted")
        items.append(tag("li", examples.quoted(sentence), told, tag("br"), where))
        rows.append([whole(row), whole(wrong[i]), text(missed), text(extra), text(sentence[: examples.WORDS])])
    heading, headers = (
        "The sentences with the most mistakes first",
        ("row", "mistakes", "missed", "not there", "sentence"),
    )
    return examples.listing(heading, items, rows, headers, of=len(wrong), images=False)


def _quoted(words: Sequence[str], found: frozenset[Entity]) -> str:
    ordered = sorted(found, key=lambda one: one[1:])
    return ", ".join(f"{' '.join(words[begin : end + 1])} ({kind})" for kind, begin, end in ordered)
