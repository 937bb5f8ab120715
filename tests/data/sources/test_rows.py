"""Files as they come: delimiters, encodings, headers."""

from __future__ import annotations

import pytest

from jaxfer.data.sources.table import source
from jaxfer.errors import InputError

from .test_table import fetched, one


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16", "utf-8", "UTF8"])
@pytest.mark.parametrize("delimiter", [";", "|", "\t", "\\t", "tab"])
def test_encodings_and_delimiters(tmp_path, encoding, delimiter):
    between = delimiter if len(delimiter) == 1 else "\t"
    content = f'\ntext{between}label\n"caf\u00e9{between} bar"{between}\u00e4\nx{between}b\n'
    (tmp_path / "train.txt").write_bytes(content.encode(encoding))
    data = source(path=str(tmp_path), delimiter=delimiter, encoding=encoding)
    assert fetched(data.splits["train"]) == [f"caf\u00e9{between} bar", "x"]
    assert data.classes == ("b", "\u00e4")


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (
            "a\nb\ncaf\u00e9".encode("latin-1"),
            {},
            "expected UTF-8 text in 'FILE', found byte 0xe9 in line 3; set data.enc",
        ),
        (
            "text,label\na,b".encode("utf-16"),
            {},
            "found byte 0xff in line 1; set data.encoding (utf-16 by its first bytes)",
        ),
        (
            "\u20ac".encode(),
            {"encoding": "ascii"},
            "expected ascii text in 'FILE', found byte 0xe2 in line 1; set data.",
        ),
        (b"text,label\n", {"encoding": "utf-16"}, "expected utf-16 text in 'FILE', found"),
        (
            b"",
            {"encoding": "latin9000"},
            "data.encoding='latin9000': unknown encoding: latin9000; expected utf-8, utf-",
        ),
        (b"", {"encoding": "rot13"}, "data.encoding='rot13': 'rot13' is not a text encoding"),
        (b"", {"delimiter": ", "}, "expected data.delimiter to be one character such as ',', ';' or '\\t', found ', '"),
        (
            b"text;label\na;b\n",
            {},
            "data.text='text' is not a column of 'FILE'; nearest: 'text;label'; set data.delimiter=';'",
        ),
        (
            b"text,label\na,b\n",
            {"train": "b.csv"},
            "data.train='b.csv' has no effect: data.path names a file; name its",
        ),
        (b"text,label\na,b\n", {"val": "b.csv"}, "data.val='b.csv' is not a file in 'FOLDER'; nearest: 'a.csv'"),
        (b"text,label\na,b\n", {"test": "a.csv"}, "data.test and data.train name the same file, 'FILE'; name two"),
        (b"text,label\na,b\n", {"train": "none"}, "data.train='none' has no effect"),
    ],
)
def test_bad_encodings_delimiters_and_split_files(tmp_path, content, options, message):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(InputError) as error:
        source(path=str(tmp_path / "a.csv"), **options)
    expected = message.replace("FILE", str(tmp_path / "a.csv")).replace("FOLDER", str(tmp_path))
    assert expected in str(error.value) and "\n" not in str(error.value)


def test_empty_cells_in_a_header_name_no_column(tmp_path):
    data = one(tmp_path, "a_csv", ",,text,label,\n0,0,good film,x,\n1,1,bad film,y,\n")
    assert (fetched(data.splits["train"]), data.classes) == (["good film", "bad film"], ("x", "y"))


def test_quoted_line_ends_in_a_tsv_are_noted(tmp_path):
    data = one(tmp_path, "a_tsv", 'label\ttext\nx\t"one\ny\ttwo"\ny\tthree\n')
    assert fetched(data.splits["train"]) == ["one\ny\ttwo", "three"]
    assert data.notes == (
        "a.tsv: 1 row spans lines within quotes; set data.quotes=false if quotes are ordinary characters",
    )
