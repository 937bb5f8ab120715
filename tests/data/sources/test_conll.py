"""CoNLL files: sentences, schemes, and lines that can't be read."""

from __future__ import annotations

import numpy as np
import pytest

from jaxfer.errors import InputError
from jaxfer.registry import SOURCES

TRAIN = "-DOCSTART- O\n\nNew\tB-place\nYork\tI-place\nis\tO\n\nso\tO\n"


def read(folder, **options):
    return SOURCES.make("conll", path=str(folder), **options)


def write(folder, **files):
    for name, text in files.items():
        (folder / f"{name}.conll").write_text(text)
    return folder


def test_sentences_and_tags(tmp_path):
    data = read(write(tmp_path, train=TRAIN, dev="York B-place\n", test="so\tO\n"))
    assert data.classes == ("O", "B-place", "I-place")
    train = data.splits["train"]
    assert [train.example("text", i) for i in range(2)] == [("New", "York", "is"), ("so",)]
    assert [train.example("tags", i).tolist() for i in range(2)] == [[1, 2, 0], [0]]
    assert data.splits["val"].example("text", 0) == ("York",) and len(data.splits["test"]) == 1
    assert data.splits["val"].example("tags", 0).dtype == np.int32


def test_the_fingerprint_is_of_words_and_tags(tmp_path):
    prints = set()
    for i, text in enumerate((TRAIN, TRAIN.replace("is\tO", "is\tB-place"), TRAIN.replace("so", "So"))):
        (tmp_path / str(i)).mkdir()
        prints.add(read(write(tmp_path / str(i), train=text)).fingerprint)
    assert len(prints) == 3


def test_other_fields_and_schemes(tmp_path):
    folder = write(tmp_path, train="1 The DET x\n2 film NOUN x\n")
    data = read(folder, word=1, tag=2, scheme="none")
    assert data.classes == ("DET", "NOUN") and data.splits["train"].example("text", 0) == ("The", "film")


@pytest.mark.parametrize(
    "files,options,problem",
    [
        (
            {"train": "a\tO\n\nword\n"},
            {},
            r"1 of 2 sentences .*\(train.conll:3 has no word and tag: 'word'\); .*data.word and data.tag.*bad_rows=1",
        ),
        ({"train": "word\n"}, {"bad_rows": "skip"}, "expected tagged words in .*train.conll', found none"),
        ({"train": "a\tS-place\n"}, {}, "expected tags O, B-TYPE and I-TYPE in .*, found 'S-place'; convert them"),
        ({"train": "a\tplace\n"}, {}, "expected tags O, B-TYPE and I-TYPE in .*, found 'place'"),
        ({"train": "\n\n"}, {}, "expected tagged words in .*train.conll', found none"),
        ({"train": TRAIN, "test": "a\tB-time\n"}, {}, "expected the tags of train, found 'B-time' in .*test.conll'"),
        ({"train": TRAIN}, {"scheme": "bio"}, "expected data.scheme to be one of iob, none, found 'bio'"),
        ({"other": TRAIN}, {}, r"expected train.conll or .bio or .iob or .tsv or .txt in .*, found other.conll"),
    ],
)
def test_what_can_not_be_read(tmp_path, files, options, problem):
    with pytest.raises(InputError, match=problem):
        read(write(tmp_path, **files), **options)


def test_sentences_of_bad_lines_may_be_left_out(tmp_path):
    data = read(write(tmp_path, train=TRAIN + "\na\tO\nword\nb\n\n"), bad_rows=1)
    (tmp_path / "plain").mkdir()
    plain = read(write(tmp_path / "plain", train=TRAIN))
    line = TRAIN.count("\n") + 3
    assert data.bad == (f"train.conll:{line} has no word and tag: 'word'",) and data.fingerprint == plain.fingerprint


def test_another_encoding(tmp_path):
    (tmp_path / "train.conll").write_bytes("caf\xe9\tO\n".encode("latin-1"))
    with pytest.raises(InputError, match="expected UTF-8 in .*train.conll'"):
        read(tmp_path)
