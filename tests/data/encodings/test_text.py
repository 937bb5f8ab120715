from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from jaxfer.data.encodings import text
from jaxfer.data.encodings.text import TextEncoding, texts, tokenize, whole_lengths
from jaxfer.data.encodings.tokenizers import load_tokenizer, tokenizer_sha256
from jaxfer.data.encodings.tokens import Tokens
from jaxfer.data.split import Array, Split
from jaxfer.errors import InputError

# [PAD] [UNK] [CLS] [SEP] [MASK] good bad plain film plot song the a was very not and it ##s ##ly . ! ?
TOKENIZER = Path(__file__).parents[1] / "tokenizer"
CLS, SEP, UNK = 2, 3, 1


def encoding(folder=TOKENIZER, **changes):
    options = dict(tokenizer=str(folder), tokenizer_sha256="", vocab=23, types=2, max_length=7, buckets=(4, 7))
    return TextEncoding(**{**options, **changes})


def split(first, second=None):
    return Split.whole(text=texts(first, second), label=Array(np.arange(len(first), dtype=np.int32), "class"))


def rows(tokens):
    pairs = zip(tokens.starts[:-1], tokens.starts[1:], strict=True)
    return [(tokens.ids[a:b].tolist(), tokens.types[a:b].tolist()) for a, b in pairs]


def test_words_pieces_case_and_unknown_words():
    tokens = tokenize(split(("Good film!", "the PLOTS", "a Xylophone")), encoding())
    assert [ids for ids, _ in rows(tokens)] == [[CLS, 5, 8, 21, SEP], [CLS, 11, 9, 18, SEP], [CLS, 12, UNK, SEP]]
    assert tokens.lengths.tolist() == [5, 5, 4]
    assert (tokens.tokenizer.pad, tokens.ids.dtype) == (0, np.int32)


def test_long_texts_are_cut_and_keep_their_end_token():
    tokens = tokenize(split(("it was a very very very bad film",)), encoding())
    assert rows(tokens)[0][0] == [CLS, 17, 13, 12, 14, 14, SEP]


def test_lengths_before_the_cut_are_counted_without_reading_a_text_twice(monkeypatch):
    data = split(("good", "it was a very very very bad film", "it was a bad film"))
    assert whole_lengths(data, encoding()).tolist() == [3, 10, 7]
    pairs = split(("good film", "a"), ("bad", "it was a very bad film"))
    assert whole_lengths(pairs, encoding()).tolist() == [6, 10]
    monkeypatch.setattr(text, "_encode", None)
    assert tokenize(data, encoding()).lengths.tolist() == [3, 7, 7]


@pytest.mark.parametrize(("second", "longest", "special"), [(None, 2, 2), (("bad",), 3, 3)])
def test_a_length_without_room_for_a_text(second, longest, special):
    with pytest.raises(
        InputError, match=f"max_length={longest} leaves no room .* adds {special} special .* {special + 1}"
    ):
        tokenize(split(("good",), second), encoding(max_length=longest, buckets=(longest,)))


def test_pairs_have_two_types_and_lose_the_longer_ones_end():
    tokens = tokenize(split(("good film", "a"), ("bad", "it was a very bad film")), encoding())
    assert rows(tokens) == [
        ([CLS, 5, 8, SEP, 6, SEP], [0, 0, 0, 0, 1, 1]),
        ([CLS, 12, SEP, 17, 13, 12, SEP], [0, 0, 0, 1, 1, 1, 1]),
    ]


def test_a_batch_is_padded_and_masked():
    tokens = tokenize(split(("good", "good film", "a"), ("bad", "bad", "a")), encoding())
    batch = tokens(np.array([1, 0]), 7)
    assert batch["input_ids"].tolist() == [[CLS, 5, 8, SEP, 6, SEP, 0], [CLS, 5, SEP, 6, SEP, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 0, 0]]
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1, 0], [0, 0, 0, 1, 1, 0, 0]]
    assert {leaf.dtype for leaf in batch.values()} == {np.dtype(np.int32)}


def test_texts_are_fetched_as_they_are():
    assert texts(("a", "b"))[1] == "b"
    assert texts(("a", "b"), ("c", "d"))[0] == ("a", "c")


def test_texts_are_known_by_their_content():
    different = [texts(("a", "b")), texts(("ab",)), texts(("a",), ("b",)), texts(("b", "a")), texts(("a", "b", ""))]
    assert len({each.sha256 for each in different}) == len(different)
    assert texts(("a", "b")).sha256 == texts(("a", "b")).sha256


def test_each_text_is_tokenized_once_and_only_when_asked_for(monkeypatch):
    read, encode = [], text._encode

    def counted(tokenizer, source, chosen, options):
        read.extend(chosen)
        return encode(tokenizer, source, chosen, options)

    monkeypatch.setattr(text, "_encode", counted)
    whole = split(tuple(f"good film number {i}" for i in range(6)))
    first = tokenize(whole.take(np.array([4, 1])), encoding())
    assert sorted(read) == [1, 4]
    same = split(whole.columns["text"].first)  # another object of the same content, as another run reads it
    second = tokenize(same.take(np.array([1, 2, 4, 4])), encoding())
    assert sorted(read) == [1, 2, 4]
    assert rows(first) == [rows(second)[2], rows(second)[0]]
    tokenize(whole.take(np.array([1])), encoding(max_length=6, buckets=(6,)))
    assert sorted(read) == [1, 1, 2, 4]


def test_an_empty_split_and_pickling():
    tokens = tokenize(split(("good", "bad")).take(np.arange(0)), encoding())
    assert tokens.lengths.tolist() == [] and isinstance(pickle.loads(pickle.dumps(tokens)), Tokens)


def copied(tmp_path):
    return Path(shutil.copytree(TOKENIZER, tmp_path / "tokenizer"))


def test_a_tokenizer_is_known_by_its_files(tmp_path):
    folder = copied(tmp_path)
    sha256 = tokenizer_sha256(TOKENIZER)
    (folder / "model.safetensors").write_bytes(b"weights")
    assert tokenizer_sha256(folder) == sha256
    assert load_tokenizer(encoding(folder, tokenizer_sha256=sha256))[1] == sha256
    (folder / "vocab.txt").write_text((folder / "vocab.txt").read_text().replace("film", "tale"))
    assert tokenizer_sha256(folder) != sha256
    with pytest.raises(InputError, match=f"sha256 .* the model was made with {sha256[:12]}; restore it"):
        load_tokenizer(encoding(folder, tokenizer_sha256=sha256))


def test_a_changed_tokenizer_is_read_again(tmp_path):
    folder = copied(tmp_path)
    data = split(("a film",))
    assert rows(tokenize(data, encoding(folder)))[0][0] == [CLS, 12, 8, SEP]
    (folder / "vocab.txt").write_text((folder / "vocab.txt").read_text().replace("film", "tale"))
    assert rows(tokenize(data, encoding(folder)))[0][0] == [CLS, 12, UNK, SEP]


def test_a_relative_folder_is_looked_up_in_the_data_folder(monkeypatch):
    monkeypatch.setenv("JAXFER_DATA", str(TOKENIZER.parent))
    assert load_tokenizer(encoding("tokenizer"))[1] == tokenizer_sha256(TOKENIZER)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(tokenizer=""), "the model has no tokenizer; set config.model.tokenizer to a folder"),
        (dict(tokenizer="no/such"), "config.model.tokenizer: expected a folder, found nothing at 'no/such'"),
        (dict(vocab=22), "does not match the model: expected 22 tokens, found 23 tokens; set config.model.tokeni"),
        (dict(vocab=30522), "does not match the model: expected 30522 tokens, found 23 tokens"),
    ],
)
def test_tokenizers_that_are_not_the_models(changes, message):
    with pytest.raises(InputError) as error:
        tokenize(split(("good",)), encoding(**changes))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_folder_without_a_tokenizer_or_with_a_broken_one(tmp_path):
    with pytest.raises(
        InputError, match=r"expected a tokenizer \(tokenizer.json or vocab.txt, ...\) in .*, found none"
    ):
        load_tokenizer(encoding(tmp_path))
    shutil.copytree(TOKENIZER, tmp_path / "negative")
    stated = json.loads((TOKENIZER / "tokenizer_config.json").read_text()) | {"model_max_length": -5}
    (tmp_path / "negative" / "tokenizer_config.json").write_text(json.dumps(stated))
    with pytest.raises(
        InputError, match=r"states model_max_length=-5; expected at least 1: correct its tokenizer_conf"
    ):
        load_tokenizer(encoding(tmp_path / "negative"))
    (tmp_path / "described").mkdir()
    shutil.copy(TOKENIZER / "tokenizer_config.json", tmp_path / "described")
    with pytest.raises(
        InputError, match=r"the tokens of a BertTokenizer \(tokenizer.json or vocab.txt\) in .*, found none; restore"
    ):
        load_tokenizer(encoding(tmp_path / "described", tokenizer_sha256=tokenizer_sha256(tmp_path / "described")))
    (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0"}))
    with pytest.raises(InputError, match="expected a tokenizer in .*; restore its files") as error:
        load_tokenizer(encoding(tmp_path))
    assert "\n" not in str(error.value)


def test_types_that_the_model_does_not_have():
    with pytest.raises(InputError, match="gave token .* of type 1, the model has 23 tokens and 1 types"):
        tokenize(split(("good",), ("bad",)), encoding(types=1))
