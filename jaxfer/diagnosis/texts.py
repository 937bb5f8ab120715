"""Texts that say nothing, are cut at the model's length, or are of words that its tokenizer does not know."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from jaxfer.data.encodings.text import TextEncoding, Texts, tokenize, whole_lengths
from jaxfer.data.encodings.tokenizers import load_tokenizer
from jaxfer.diagnosis.duplicates import normalised
from jaxfer.diagnosis.finding import NOTE, SEVERE, WARNING, Finding, graded, percent, reached
from jaxfer.diagnosis.opened import Opened

EMPTY = 0.01  # of a split
CUT = 0.05  # of a split
UNKNOWN = {SEVERE: 0.3, WARNING: 0.05, NOTE: 0.01}  # share of tokens


def check(opened: Opened) -> Iterator[Finding]:
    """Of each split; lengths and tokens where the model reads a text, or the two of a pair, as one."""
    encoding = opened.encoding("text")
    if not isinstance(encoding, TextEncoding):
        return
    windows = opened.ready.stages[0].spec.task.expand is not None  # which hold all of a text
    for name, split in opened.splits.items():
        if isinstance(split.columns["text"], Texts):
            yield from _empty(opened, name)
        if not encoding.apart and not windows:
            yield from _cut(opened, name, encoding)
            yield from _unknown(opened, name, encoding)


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


def _cut(opened: Opened, name: str, encoding: TextEncoding) -> Iterator[Finding]:
    whole = whole_lengths(opened.splits[name], encoding)
    cut = np.flatnonzero(whole > encoding.max_length)
    if len(cut):
        share, lost = len(cut) / len(whole), (whole[cut] - encoding.max_length).sum() / whole.sum()
        severity, threshold = graded(share, None, CUT)
        order = cut[np.argsort(-whole[cut], kind="stable")]
        yield Finding(
            severity=severity,
            kind="cut",
            message=f"{len(cut):,} of {len(whole):,} texts of {name} ({percent(share)}) are longer than "
            f"{encoding.max_length} tokens and are cut; {percent(lost)} of all tokens are lost.",
            fix=f"raise config.model.max_length (99 % have at most {int(np.percentile(whole, 99))} tokens)",
            value=share,
            threshold=threshold,
            examples=opened.some(name, order, lambda i: f"{whole[i]:,} tokens"),
        )


def _unknown(opened: Opened, name: str, encoding: TextEncoding) -> Iterator[Finding]:
    tokens, (tokenizer, _) = tokenize(opened.splits[name], encoding), load_tokenizer(encoding)
    others = {getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad", "cls", "sep", "mask")}
    if tokenizer.unk_token_id in (None, *others):  # GPT-2's is its end of a text
        return
    unknown = tokens.ids == tokenizer.unk_token_id
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    words = ~np.isin(tokens.ids, sorted(special))
    share = float(unknown.sum() / max(words.sum(), 1))
    counts = np.add.reduceat(unknown.astype(np.int64), tokens.starts[:-1])
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
