"""Windows: none of the context is lost, neighbours share the stride, and places are those of characters."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from jaxfer.data.encodings.text import TextEncoding, texts
from jaxfer.data.encodings.windows import windowed
from jaxfer.data.split import Array, Split
from jaxfer.errors import InputError

CONTEXT = "The film was good. A plot, very bád 🙂 and plain!"
SPLIT = Split.whole(
    text=texts(("The plot?", "It", "The film"), (CONTEXT, "good", f"{CONTEXT} {CONTEXT}")),
    number=Array(np.arange(3), "row"),
)


def encoding(max_length: int) -> TextEncoding:
    tokenizer = "tests/data/tokenizer"
    return TextEncoding(
        tokenizer=tokenizer, tokenizer_sha256="", vocab=23, types=2, max_length=max_length, buckets=(max_length,)
    )


def context_tokens(split: Split, row: int) -> list[tuple[int, int, int]]:
    """(id, begin, end) of the context's tokens in a window."""
    window = split.example("text", row)
    return [token for token in zip(window.encoded.ids, window.begins, window.ends, strict=True) if token[1] >= 0]


@pytest.mark.parametrize("stride", [0, 1, 3])
def test_windows_hold_every_token_and_share_the_stride(stride):
    whole, cut = windowed(SPLIT, encoding(60), stride), windowed(SPLIT, encoding(11), stride)
    assert len(whole) == 3 and len(cut) > 6
    for example in range(3):
        rows = np.flatnonzero(cut.columns["text"].examples == example)
        parts = [context_tokens(cut, row) for row in rows]
        joined = parts[0]
        for part in parts[1:]:
            assert joined[len(joined) - stride :] == part[:stride]
            joined = joined + part[stride:]
        assert joined == context_tokens(whole, example)
        assert all(cut.example("number", row) == example for row in rows)
        assert all(len(cut.example("text", row).encoded.ids) <= 11 for row in rows)


def test_places_are_unicode_characters():
    window = windowed(SPLIT, encoding(60), 2).example("text", 0)
    found = [CONTEXT[b:e] for b, e in zip(window.begins, window.ends, strict=True) if b >= 0]
    assert found == ["The", "film", "was", "good", ".", "A", "plot", ",", "very", "bád", "🙂", "and", "plain", "!"]
    assert list(window.begins[:5]) == [-1] * 5 and window.begins[-1] == -1  # [CLS] the plot ? [SEP] ... [SEP]


def test_they_are_read_as_texts_are_and_follow_the_rows():
    split = windowed(SPLIT.take(np.asarray([2, 1])), encoding(11), 1)
    fields = encoding(11).reader(pickle.loads(pickle.dumps(split)))(np.arange(len(split)), 11)
    assert fields["input_ids"].shape == (len(split), 11)
    for row in range(len(split)):
        ids = split.example("text", row).encoded.ids
        np.testing.assert_array_equal(fields["input_ids"][row, : len(ids)], ids)
    assert split.columns["text"].examples[-1] == 1 and split.example("number", len(split) - 1) == 1
    last = encoding(11).reader(split.take(np.asarray([len(split) - 1])))
    np.testing.assert_array_equal(last(np.asarray([0]), 11)["input_ids"][0], fields["input_ids"][-1])


def test_a_question_without_room_and_texts_without_a_partner():
    with pytest.raises(InputError, match="expected questions of at most 2 tokens .*max_length=8.*stride=2.* found 3"):
        windowed(SPLIT, encoding(8), 2)
    with pytest.raises(InputError, match="expected pairs of texts, found texts"):
        windowed(Split.whole(text=texts(("good",))), encoding(8), 2)
