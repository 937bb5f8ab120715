"""Tokenizers without a padding token, as GPT-2's and Llama's, pad with the one that ends texts."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from jaxfer.data.encodings.text import texts, tokenize
from jaxfer.data.encodings.tokenizers import borrows_padding, load_tokenizer
from jaxfer.data.split import Dataset, Split
from jaxfer.errors import InputError
from jaxfer.registry import MODELS


def written(folder, **special):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<unk>": 0, "the": 1, "end": 2, "<eos>": 3}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", **special).save_pretrained(folder)
    port = MODELS.make("gpt2", outputs=2, vocab=4, width=4, heads=1, positions=5, max_length=5, tokenizer=str(folder))
    return port.encoding


def test_the_token_that_ends_texts_pads(tmp_path):
    encoding = written(tmp_path, eos_token="<eos>")
    tokenizer, _ = load_tokenizer(encoding)
    assert borrows_padding(tokenizer) and tokenizer.pad_token_id == 3
    split = Split.whole(text=texts(("the end", "", "the")))
    batch = tokenize(split, dataclasses.replace(encoding, words=True))(np.arange(3), 3)
    np.testing.assert_array_equal(batch["input_ids"], [[1, 2, 3], [3, 3, 3], [1, 3, 3]])
    np.testing.assert_array_equal(batch["attention_mask"], [[1, 1, 0], [1, 0, 0], [1, 0, 0]])
    np.testing.assert_array_equal(batch["words"][1], [-1, -1, -1])


def test_one_without_either_is_refused(tmp_path):
    with pytest.raises(InputError, match="4 tokens and no padding token"):
        load_tokenizer(written(tmp_path))


def test_its_own_padding_is_kept(tmp_path):
    tokenizer, _ = load_tokenizer(written(tmp_path, eos_token="<eos>", pad_token="<unk>"))
    assert tokenizer.pad_token_id == 0 and not borrows_padding(tokenizer)


def test_a_note_says_so(tmp_path):
    split = Split.whole(text=texts(("the end",)))
    data = Dataset(splits={"train": split}, classes=(), fingerprint="")
    (note,) = written(tmp_path, eos_token="<eos>").notes(data, 0)
    assert note == "the tokenizer has no padding token: texts are padded with '<eos>', which ends them"
