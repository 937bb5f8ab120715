"""Tokenizers of a SentencePiece model alone, as DeBERTa v3 has them: read where two packages are, else one line."""

from __future__ import annotations

import json
import sys

import pytest

from jaxfer.data.encodings.tokenizers import PIECES, TOKENIZER_FILES, read_tokenizer, tokenizer_sha256
from jaxfer.errors import InputError
from jaxfer.pretrained import hub

LINES = ("a plain film was good and bad", "it sings more songs than six", "the very best of films")


def test_every_file_of_a_tokenizer_is_downloaded_and_hashed():
    assert set(TOKENIZER_FILES) <= set(hub.DOWNLOADS[0]) and set(PIECES) <= set(TOKENIZER_FILES)
    assert list(TOKENIZER_FILES) == sorted(TOKENIZER_FILES)


@pytest.mark.parametrize("package", ["sentencepiece", "google.protobuf"])
def test_a_package_that_is_missing_is_named(package, monkeypatch, tmp_path):
    (tmp_path / "spm.model").write_bytes(b"pieces")
    monkeypatch.setitem(sys.modules, "sentencepiece", sys)
    monkeypatch.setitem(sys.modules, package, None)
    message = f"is spm.model alone, .* and {package} is missing; install them, or save it as tokenizer.json"
    with pytest.raises(InputError, match=message):
        read_tokenizer(tmp_path)


def test_the_tokens_are_sentencepieces(tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    pytest.importorskip("google.protobuf")
    (tmp_path / "lines.txt").write_text("\n".join(LINES * 20))
    special = dict(pad_id=0, bos_id=1, eos_id=2, unk_id=3, pad_piece="[PAD]", bos_piece="[CLS]", eos_piece="[SEP]")
    sentencepiece.SentencePieceTrainer.train(
        **dict(input=str(tmp_path / "lines.txt"), model_prefix=str(tmp_path / "spm"), minloglevel=2),
        **dict(vocab_size=60, hard_vocab_limit=False, unk_piece="[UNK]", **special),
    )
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "deberta-v2"}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False, "vocab_type": "spm"}))
    found, reference = read_tokenizer(tmp_path), sentencepiece.SentencePieceProcessor(str(tmp_path / "spm.model"))
    assert tokenizer_sha256(tmp_path) and (found.pad_token_id, found.is_fast) == (0, True)
    for line in (*LINES, "a plain zebra, and six!"):
        assert found(line)["input_ids"] == [1, *reference.encode(line), 2]
