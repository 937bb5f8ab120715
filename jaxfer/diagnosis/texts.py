"""Texts that say nothing, are cut at the model's length, or are of words that its tokenizer does not know; targets."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from jaxfer.data.encodings.target import TARGET, TargetEncoding
from jaxfer.data.encodings.text import TextEncoding, Texts, texts, tokenize, whole_lengths
from jaxfer.data.encodings.tokenizers import load_tokenizer
from jaxfer.data.encodings.tokens import Tokens
from jaxfer.data.split import Split
from jaxfer.diagnosis.duplicates import normalised
from jaxfer.diagnosis.finding import NOTE, SEVERE, WARNING, Finding, graded, percent, reached
from jaxfer.diagnosis.opened import Opened

EMPTY = 0.01  # of a split
CUT = 0.05  # of a split
LONGEST = 10**6  # tokens: nothing is cut
UNKNOWN = {SEVERE: 0.3, WARNING: 0.05, NOTE: 0.01}  # share of tokens


def check(opened: Opened) -> Iterator[Finding]:
    """Of each split: the inputs, and the targets that a decoder is to write."""
    for encoding in opened.encodings:
        if isinstance(encoding, TargetEncoding):
            yield from _cut_targets(opened, encoding)
    encoding = opened.encoding("text")
    if not isinstance(encoding, TextEncoding):
        return
    windows = opened.ready.stages[0].spec.task.expand is not None  # which hold all of a text
    whole = dataclasses.replace(encoding, max_length=LONGEST) if windows else encoding
    for name, split in opened.splits.items():
        if isinstance(split.columns["text"], Texts):
            yield from _empty(opened, name)
        parts = _apart(split) if encoding.apart else [split]
        if not windows:
            lengths = np.max([whole_lengths(part, encoding) for part in parts], 0)
            yield from _cut(opened, name, "texts", lengths, encoding.max_length, "config.model.max_length")
        yield from _unknown(opened, name, [tokenize(part, whole) for part in parts], encoding)


def _cut_targets(opened: Opened, encoding: TargetEncoding) -> Iterator[Finding]:
    whole = dataclasses.replace(encoding, max_length=LONGEST)
    for name, split in opened.splits.items():
        if TARGET in split.columns:
            given = [split.example(TARGET, row) for row in range(len(split))]
            lengths = np.array([len(ids) for ids in whole.tokens(given)])
            yield from _cut(opened, name, "targets", lengths, encoding.max_length, "config.model.target_length")


def _empty(opened: Opened, name: str) -> Iterator[Finding]:
    split = opened.splits[name]
    given = [split.example("text", i) for i in range(len(split))]
    empty = [i for i, text in enumerate(given) if not all(map(normalised, _parts(text)))]
    if empty:
        share = len(empty) / len(split)
        severity, threshold = graded(share, None if name == "test" else EMPTY, 0.0)
        yield Finding(
            severity=severity,
            kind="empty",
            message=f"{len(empty):,} of {len(split):,} texts of {name} ({percent(share)}) have no word or number.",
            fix="remove them from the files, or name another column in data.text",
            value=share,
            threshold=threshold,
            examples=opened.some(name, empty),
        )


def _parts(text: str | tuple[str, str]) -> tuple[str, ...]:
    return (text,) if isinstance(text, str) else text


def _apart(split: Split) -> list[Split]:
    """The first and the second texts of pairs, which the model reads each on its own."""
    column = split.columns["text"]
    return [Split(columns={"text": texts(part)}, rows=split.rows) for part in (column.first, column.second)]


def _cut(opened: Opened, name: str, what: str, whole: np.ndarray, most: int, option: str) -> Iterator[Finding]:
    """Of the examples' lengths before the cut; of two texts that are read apart, the longer one's."""
    cut = np.flatnonzero(whole > most)
    if len(cut):
        share, lost = len(cut) / len(whole), (whole[cut] - most).sum() / whole.sum()
        severity, threshold = graded(share, None, CUT)
        order = cut[np.argsort(-whole[cut], kind="stable")]
        yield Finding(
            severity=severity,
            kind="cut",
            message=f"{len(cut):,} of {len(whole):,} {what} of {name} ({percent(share)}) are longer than "
            f"{most} tokens and are cut; {percent(lost)} of all tokens are lost.",
            fix=f"raise {option} (99 % have at most {int(np.percentile(whole, 99))} tokens)",
            value=share,
            threshold=threshold,
            examples=opened.some(name, order, lambda i: f"{whole[i]:,} tokens"),
        )


def _unknown(opened: Opened, name: str, parts: Sequence[Tokens], encoding: TextEncoding) -> Iterator[Finding]:
    tokenizer, _ = load_tokenizer(encoding)
    others = {getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad", "cls", "sep", "mask")}
    if tokenizer.unk_token_id in (None, *others):  # GPT-2's is its end of a text
        return
    special = sorted(set(tokenizer.all_special_ids) - {tokenizer.unk_token_id})
    words, counts = 0, np.zeros(len(opened.splits[name]), np.int64)
    for tokens in parts:
        words += int((~np.isin(tokens.ids, special)).sum())
        counts += np.add.reduceat((tokens.ids == tokenizer.unk_token_id).astype(np.int64), tokens.starts[:-1])
    share = float(counts.sum() / max(words, 1))
    if found := reached(share, UNKNOWN):
        (severity, threshold), most = found, np.argsort(-counts, kind="stable")
        yield Finding(
            severity=severity,
            kind="unknown_tokens",
            message=f"{percent(share)} of the tokens of {name} are unknown to the tokenizer.",
            fix="choose a checkpoint of this language and script, or name its own config.model.tokenizer",
            value=share,
            threshold=threshold,
            examples=opened.some(name, most[counts[most] > 0], lambda i: f"{counts[i]} unknown tokens"),
        )
