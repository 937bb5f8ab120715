"""Questions whose answers are parts of a text: JSON lines, or the nested JSON of SQuAD (Rajpurkar et al., 2016)."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from jaxfer.data import index
from jaxfer.data.encodings.text import texts
from jaxfer.data.lookup import fingerprint, locate
from jaxfer.data.sources.labels import readable
from jaxfer.data.sources.rows import Bad, Dialect, allowed, judged, records
from jaxfer.data.sources.splitfiles import split_files
from jaxfer.data.split import Dataset, Split
from jaxfer.errors import InputError

FORMATS = (".jsonl", ".json")

Answers = tuple[tuple[int, str], ...]


@dataclass(frozen=True, eq=False, repr=False)
class Spans:
    """A column of answers.

    Attributes:
      values: (start, text) of each answer to a question, at least one; starts count the context's Unicode characters.
    """

    values: tuple[Answers, ...]
    kind: ClassVar[str] = "spans"

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, row: int) -> Answers:
        return self.values[row]

    @functools.cached_property
    def sha256(self) -> str:
        """sha256 (hex) of all answers."""
        return fingerprint(part for row in self.values for answer in (*row, (-1, "")) for part in map(str, answer))


def source(*, path: str = "", train: str = "", val: str = "", test: str = "", bad_rows: int | str = 0) -> Dataset:
    """A folder with train.jsonl, dev.jsonl (or val, valid, validation) and test.jsonl, or one file that is all `train`.

    A line is an object with `id`, `question`, `context` and `answers`: [{text, start}], or {text: [...], answer_start:
    [...]} as Hugging Face's copy has them. Files that end with .json are SQuAD's own: data, paragraphs, qas.

    Args:
      path: the folder or file; a relative one that is absent is looked up in the folder that JAXFER_DATA names.
      train: name of the file for `train` in the folder (`train-v1.1.json`); empty: by its stem.
      val: likewise; `none`: leave it out, and draw from `train`.
      test: likewise.
      bad_rows: number of bad questions that may be left out, with a note: those without an answer, or with one that is
        not in its context at its start; `skip`: any number.

    Raises:
      InputError: no such file, no questions, or more bad ones than allowed.
    """
    limit = allowed(bad_rows)
    root = locate(path, "squad")
    files, notes = split_files(root, {"train": train, "val": val, "test": test}, Dialect(delimiter="\t"), FORMATS)
    return _read(files, notes, root, limit)


@index.once
def _read(files: Mapping[str, Path], notes: tuple[str, ...], root: Path, limit: float) -> Dataset:
    """The dataset in these files of the folder `root`."""
    splits, bad, total = {}, [], 0
    for split, file in files.items():
        rows = []
        for where, record in _records(file):
            total += 1
            try:
                if isinstance(record, Bad):
                    raise record
                rows.append(_row(record))
            except Bad as error:
                bad.append(f"{file.name}:{where} {error}")
        questions, contexts, spans = zip(*rows, strict=True) if rows else ((), (), ())
        splits[split] = Split.whole(text=texts(questions, contexts), spans=Spans(spans))
    notes += judged(bad, total, root, limit)
    for split, file in files.items():
        if not len(splits[split]):
            raise InputError(f"expected questions in {str(file)!r}, found none; add some or remove the file")
    parts = [part for name, split in splits.items() for part in (name, *(c.sha256 for c in split.columns.values()))]
    return Dataset(
        splits=splits,
        classes=(),
        fingerprint=fingerprint(parts),
        notes=notes,
        bad=tuple(bad),
        provenance={split: file.name for split, file in files.items()},
    )


def _records(file: Path) -> Iterator[tuple[Any, Mapping[str, Any] | Bad]]:
    """(line, or the question's place in SQuAD's own JSON; its fields, or the reason why it can't be read)."""
    if file.suffix.lower() != ".json":
        yield from records(file, Dialect(encoding="utf-8-sig"), "")
        return
    try:
        articles = json.loads(file.read_text(encoding="utf-8-sig"))["data"]
        pairs = [(p["context"], qa) for article in articles for p in article["paragraphs"] for qa in p["qas"]]
        found = [{**qa, "context": context} for context, qa in pairs]
    except (ValueError, KeyError, TypeError) as error:
        fix = "convert it to JSON lines"
        raise InputError(
            f"expected SQuAD's data, paragraphs and qas in {str(file)!r}, found {type(error).__name__}: {error}; {fix}"
        ) from None
    yield from enumerate(found, start=1)


def _row(record: Mapping[str, Any]) -> tuple[str, str, Answers]:
    """(question, context, answers)."""
    name = f"(id {record.get('id')!r})"
    for field in ("question", "context"):
        if not isinstance(record.get(field), str) or not record[field].strip():
            raise Bad(f"{name} has no text in {field!r}")
    question, context = readable(record["question"]), readable(record["context"])
    answers = tuple(_answers(record.get("answers"), name))
    if not answers:
        raise Bad(f"{name} has no answer")
    for start, text in answers:
        if not text.strip() or start < 0 or context[start : start + len(text)] != text:
            raise Bad(f"{name}: the answer {text!r:.60} is not in its context at {start}")
    return question, context, answers


def _answers(answers: Any, name: str) -> Iterator[tuple[int, str]]:
    if isinstance(answers, dict) and {"text", "answer_start"} <= answers.keys():
        pairs = zip(answers["answer_start"], answers["text"], strict=False)
        answers = [{"start": start, "text": text} for start, text in pairs]
    for answer in answers if isinstance(answers, list) else ():
        start = answer.get("start", answer.get("answer_start")) if isinstance(answer, dict) else None
        if not isinstance(start, int) or not isinstance(answer.get("text"), str):
            raise Bad(f"{name}: expected answers with 'text' and 'start', found {answer!r:.60}")
        yield start, answer["text"]
