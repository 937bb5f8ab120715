from __future__ import annotations

import json

import numpy as np
import pytest

from jaxfer.data.prepare import DataConfig, build
from jaxfer.data.sources.table import source
from jaxfer.errors import InputError
from tests.data import shared

ROWS = 'text,label\nA good film,good\n"Bad, ""very"" bad\nfilm",bad\n\nplain,good\n'


def written(folder, **files):
    """The folder with these files; `train_csv` is train.csv."""
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        stem, suffix = name.rsplit("_", 1)
        content = content if isinstance(content, str) else "".join(json.dumps(row) + "\n" for row in content)
        (folder / f"{stem}.{suffix}").write_text(content, encoding="utf-8", newline="")
    return str(folder)


def one(tmp_path, name, content, **options):
    """The source of a single file."""
    stem, suffix = name.rsplit("_", 1)
    return source(path=f"{written(tmp_path, **{name: content})}/{stem}.{suffix}", **options)


def fetched(split):
    return [split.example("text", i) for i in range(len(split))]


def test_csv_with_quotes_commas_newlines_and_blank_lines(tmp_path):
    data = one(tmp_path, "a_csv", ROWS)
    assert set(data.splits) == {"train"}
    assert fetched(data.splits["train"]) == ["A good film", 'Bad, "very" bad\nfilm', "plain"]
    assert data.classes == ("bad", "good")
    assert data.splits["train"].labels.tolist() == [1, 0, 1]
    assert data.splits["train"].labels.dtype == np.int32
    assert data.notes == ()


def test_groups(tmp_path):
    content = "text,label,site,sex\nA,good,1,f\nB,bad,2,f\nC,good,1,m\nD,bad,,m\n"
    data = one(tmp_path, "a_csv", content, group=("site", "sex"), bad_rows=1)
    assert data.splits["train"].groups.tolist() == ["1, f", "2, f", "1, m"]
    assert "a.csv:5 has no group in 'site'" in data.notes[0]
    assert data.fingerprint != one(tmp_path, "a_csv", content.replace("D,bad,,m\n", "")).fingerprint
    with pytest.raises(InputError, match="data.group='site' is not a column of '.*'; if the file has no header"):
        one(tmp_path, "a_csv", ROWS, group=("site",))


def test_tsv_with_windows_line_ends_and_a_byte_order_mark(tmp_path):
    data = one(tmp_path, "a_TSV", '\ufefftext\tlabel\r\n"a ""b"""\t1\r\nc, d\t0\r\n')
    assert fetched(data.splits["train"]) == ['a "b"', "c, d"]
    assert (data.classes, data.splits["train"].labels.tolist()) == (("0", "1"), [1, 0])


def test_quotes_that_are_characters(tmp_path):
    content = 'text\tlabel\n"Quoted" he said\ta\n5" wide\tb\n'
    with pytest.raises(InputError) as error:
        one(tmp_path, "a_tsv", content)
    assert "a.tsv:2 of" in str(error.value) and "set data.quotes=false" in str(error.value)
    data = one(tmp_path, "a_tsv", content, quotes=False)
    assert fetched(data.splits["train"]) == ['"Quoted" he said', '5" wide']


def test_a_quote_that_never_closes(tmp_path):
    content = 'text,label\n"never closed,a\n' + "some text,b\n" * 20_000  # longer than csv's limit for a field
    with pytest.raises(InputError, match=r"can't be read \(unexpected end of data\); close the quote"):
        one(tmp_path, "a_csv", content)


def test_jsonl(tmp_path):
    rows = [{"review": "a", "stars": 10}, {"review": "b", "stars": 9, "more": None}, {"stars": 10, "review": "c"}]
    data = one(tmp_path, "a_jsonl", rows, text="review", label="stars")
    assert fetched(data.splits["train"]) == ["a", "b", "c"]
    assert (data.classes, data.splits["train"].labels.tolist()) == (("9", "10"), [1, 0, 1])  # numbers by their value


def test_files_without_a_header(tmp_path):
    data = one(tmp_path, "a_csv", "good,1,A film\nbad,2,Another\n", columns=("label", "id", "text"))
    assert fetched(data.splits["train"]) == ["A film", "Another"]
    assert data.classes == ("bad", "good")
    with pytest.raises(InputError, match="has a header with these columns already; remove data.columns"):
        one(tmp_path, "b_csv", ROWS, columns=("text", "label"))


SST2 = {
    "train_tsv": 'sentence\tlabel\nhide new secretions \t0\n"quoted at one end\t1\n',
    "dev_tsv": "sentence\tlabel\nit 's a charming journey . \t1\n",
    "test_tsv": 'index\tsentence\n0\tuneasy mishmash\n1\ta "dazzling" film\n',
}
COLA = {
    "train_tsv": "gj04\t1\t\tOur friends buy it.\nks08\t0\t*\tThe more friends buy.\n",
    "dev_tsv": "gj04\t1\t\tThe sailors rode.\n",
    "test_tsv": "index\tsentence\n0\tBill whistled past.\n",
}
MRPC = {
    "train_tsv": '\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\tHe said "no.\tHe denied\n0\t9\t6\tA\tB\n',
    "dev_tsv": "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t1\t2\tC\tD\n",
    "test_tsv": "\ufeffindex\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t3\t4\tE\tF\n",
}
MNLI = {
    "train_tsv": "index\tgenre\tsentence1\tsentence2\tlabel1\tgold_label\n0\tx\tA\tB\tneutral\tneutral\n",
    "dev_matched_tsv": "index\tsentence1\tsentence2\tlabel1\tlabel2\tgold_label\n0\tC\tD\tneutral\tneutral\tneutral\n",
    "dev_mismatched_tsv": "index\tsentence1\tsentence2\tgold_label\n0\tE\tF\tneutral\n",
}
QNLI = {"train_tsv": "index\tquestion\tsentence\tlabel\n0\tWho?\tHe.\tentailment\n"}
STSB = {
    "train_tsv": "index\tgenre\tsentence1\tsentence2\tscore\n0\tx\tA plane\tAn air plane\t5.000\n1\tx\tB\tC\t0.5\n",
    "test_tsv": "index\tsentence1\tsentence2\tscore\n0\tC\tD\t-1.0\n",
}
NO_LABEL = "test.tsv has no column '{}' ({} and is left out: no test split; set data.test to another file"
MINUS_ONE = (
    "test.tsv has the label -1 in all of its 1 rows and is left out: no test split; set data.test to another file"
)
PAIRS = "no column 'text': using {!r} and {!r} as pairs; set data.text and data.text_pair to use others"
SENTENCE = "no column 'text': using 'sentence'; set data.text and data.text_pair to use others"


@pytest.mark.parametrize(
    ("files", "options", "train", "val", "notes"),
    [
        (
            SST2,
            {},
            [("hide new secretions ", 0), ('"quoted at one end', 1)],
            ["it 's a charming journey . "],
            [SENTENCE, NO_LABEL.format("label", "rows: 2)")],
        ),
        (
            COLA,
            dict(columns=("source", "label", "mark", "sentence")),
            [("Our friends buy it.", 1), ("The more friends buy.", 0)],
            ["The sailors rode."],
            [SENTENCE, NO_LABEL.format("label", "rows: 1)")],
        ),
        (
            MRPC,
            {},
            [(('He said "no.', "He denied"), 1), (("A", "B"), 0)],
            [("C", "D")],
            [
                PAIRS.format("#1 String", "#2 String"),
                "no column 'label': using 'Quality'; set data.label to use another",
                NO_LABEL.format("Quality", "rows: 1)"),
            ],
        ),
        (
            MNLI,
            dict(val="dev_matched.tsv"),
            [(("A", "B"), 0)],
            [("C", "D")],
            [
                "1 file not read (dev_mismatched.tsv); data.train, data.val and data.test choose the files to read",
                PAIRS.format("sentence1", "sentence2"),
                "no column 'label': using 'gold_label'; set data.label to use another",
            ],
        ),
        (QNLI, {}, [(("Who?", "He."), 0)], None, [PAIRS.format("question", "sentence")]),
        (
            STSB,
            dict(target="value"),
            [(("A plane", "An air plane"), 5), (("B", "C"), 0.5)],
            None,
            [
                PAIRS.format("sentence1", "sentence2"),
                "no column 'label': using 'score'; set data.label to use another",
                MINUS_ONE,
            ],
        ),
    ],
    ids=["SST-2", "CoLA", "MRPC", "MNLI", "QNLI", "STS-B"],
)
def test_folders_of_glue(tmp_path, files, options, train, val, notes):
    data = source(path=written(tmp_path / "glue", **files), quotes=False, **options)
    found = data.splits["train"]
    assert list(zip(fetched(found), found.labels.tolist(), strict=True)) == train
    assert ("test" in data.splits, fetched(data.splits["val"]) if val else None) == (False, val)
    assert list(data.notes) == notes
    assert data.provenance["train"] == "train.tsv"


def test_a_column_called_text_goes_before_others_and_an_option_before_both(tmp_path):
    content = "text,sentence1,sentence2,label,gold_label\na,b,c,x,y\nd,e,f,x,y\n"
    plain = one(tmp_path, "a_csv", content)
    assert (fetched(plain.splits["train"]), plain.classes, plain.notes) == (["a", "d"], ("x",), ())
    asked = one(tmp_path, "a_csv", content, text="sentence2", label="gold_label")
    assert (fetched(asked.splits["train"]), asked.classes, asked.notes) == (["c", "f"], ("y",), ())


def test_pairs_and_values(tmp_path):
    content = "score,first,second\n2.5,a,b\n-1e-1,c,d\n"
    data = one(tmp_path, "a_csv", content, text="first", text_pair="second", label="score", target="value")
    assert fetched(data.splits["train"]) == [("a", "b"), ("c", "d")]
    assert data.classes == ()
    np.testing.assert_array_equal(data.splits["train"].labels, np.array([2.5, -0.1], np.float32))


def test_texts_alone(tmp_path):
    data = one(tmp_path, "a_csv", "text,label\nx y,\nz,good\n", label="")
    assert (data.classes, set(data.splits["train"].columns), data.notes) == ((), {"text"}, ())
    assert fetched(data.splits["train"]) == ["x y", "z"]
    pairs = one(tmp_path, "b_csv", "text,other\nx,y\nz,w\n", label="", text_pair="other", test_fraction=0.5)
    assert {name: len(split) for name, split in pairs.splits.items()} == {"train": 1, "test": 1}
    files = dict(train_csv="text\na\nb\n", test_csv="text\nc\n")
    both = source(path=written(tmp_path / "both", **files), label="")
    assert fetched(both.splits["test"]) == ["c"]


def test_sets_of_labels(tmp_path):
    content = "text,labels\na,cat; dog\nb,\nc,dog\n"
    data = one(tmp_path, "a_csv", content, label="labels", target="labels")
    assert data.classes == ("cat", "dog")
    assert data.splits["train"].labels.tolist() == [[True, True], [False, False], [False, True]]
    assert data.multilabel
    rows = [{"text": "a", "labels": ["x;y", 3]}, {"text": "b", "labels": []}, {"text": "c", "labels": "3|z"}]
    data = one(tmp_path, "b_jsonl", rows, label="labels", target="labels", separator="|")
    assert data.classes == ("3", "x;y", "z")
    assert data.splits["train"].labels.astype(int).tolist() == [[1, 1, 0], [0, 0, 0], [1, 0, 1]]


@pytest.mark.parametrize("val", ["val", "dev", "valid", "validation"])
def test_a_folder_of_splits_of_any_format(tmp_path, val):
    files = {f"{val}_tsv": "text\tlabel\nv\tbad\n", "test_jsonl": [{"text": "t", "label": "good"}], "notes_txt": "x"}
    data = source(path=written(tmp_path / "data", train_csv=ROWS, **files))
    assert {name: fetched(split) for name, split in data.splits.items() if name != "train"} == {
        "val": ["v"],
        "test": ["t"],
    }
    assert [split.labels.tolist() for split in data.splits.values()] == [[1, 0, 1], [0], [1]]


def test_bad_rows_are_counted_and_shown(tmp_path):
    content = "text,label\na,x\nb\n ,x\nc,\nd,y\ne,x,z\n"
    with pytest.raises(InputError) as error:
        one(tmp_path, "a_csv", content)
    assert "4 of 6 rows in" in str(error.value) and str(error.value).endswith("leave them out with data.bad_rows=4")
    shown = "a.csv:3 has 1 fields for 2 columns; a.csv:4 has no text in 'text'; a.csv:5 has no class: ''; ..."
    assert shown in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(InputError, match="4 of 6 rows"):
        one(tmp_path, "a_csv", content, bad_rows=3)
    data = one(tmp_path, "a_csv", content, bad_rows=4)
    assert fetched(data.splits["train"]) == ["a", "d"]
    assert len(data.notes) == 1 and data.notes[0].endswith("and left out")


def test_notes_outlive_the_choices_of_a_config(tmp_path):
    path = written(tmp_path, a_csv="text,label\na,x\nb,y\nc,x\nd,y\ne\n")
    config, options = DataConfig(source="table", val_per_class=1), {"path": f"{path}/a.csv", "bad_rows": 1}
    (note,) = build(config, options, seed=0, with_test=False).notes
    assert note == f"1 of 5 rows in '{path}/a.csv' are bad (a.csv:6 has 1 fields for 2 columns) and left out"


def test_bad_rows_of_other_kinds(tmp_path):
    lines = ['{"text": "a", "score": 1}', "{", "[1]", '{"text": "b", "score": "x"}', '{"text": 3, "score": 1}']
    content = "\n".join([*lines, '{"text": "c", "score": NaN}', '{"text": "d"}', '{"text": "e", "score": true}'])
    with pytest.raises(InputError) as error:
        one(tmp_path, "a_jsonl", content, label="score", target="value")
    shown = (
        "a.jsonl:2 is not valid JSON; a.jsonl:3 is not a JSON object; "
        "a.jsonl:4 has a label that is not a number: 'x'; ..."
    )
    assert "7 of 8 rows" in str(error.value) and shown in str(error.value)
    data = one(tmp_path, "a_jsonl", content, label="score", target="value", bad_rows=7)
    assert data.splits["train"].labels.tolist() == [1.0]


def test_test_fraction_is_a_fixed_stratified_part_of_train(tmp_path):
    content = "text,label\n" + "".join(f"t{i},{'ab'[i % 2]}\n" for i in range(20))
    data = one(tmp_path, "a_csv", content, test_fraction=0.2)
    assert np.bincount(data.splits["test"].labels).tolist() == [2, 2]
    assert sorted(fetched(data.splits["train"]) + fetched(data.splits["test"])) == sorted(f"t{i}" for i in range(20))
    assert data.fingerprint != one(tmp_path, "a_csv", content).fingerprint
    with pytest.raises(InputError, match="data.test_fraction=0.2 has no effect where a test file exists"):
        source(path=written(tmp_path / "two", train_csv=content, test_csv=content), test_fraction=0.2)


def test_the_fingerprint_is_of_the_content_not_of_the_format(tmp_path):
    csv = one(tmp_path, "a_csv", "text,label\nx,b\ny,a\n")
    tsv = one(tmp_path, "b_tsv", "id\tlabel\ttext\n1\tb\tx\n2\ta\ty\n")
    other = one(tmp_path, "c_csv", "text,label\nx,b\nz,a\n")
    labelled = one(tmp_path, "d_csv", "text,label\nx,a\ny,b\n")
    assert csv.fingerprint == tsv.fingerprint
    assert len({data.fingerprint for data in (csv, other, labelled)}) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            dict(text="txt"),
            "data.text='txt' is not a column of 'FILE'; nearest: 'text'; if the file has no header, name",
        ),
        (dict(text_pair="pair"), "data.text_pair='pair' is not a column of 'FILE'"),
        (dict(label="lable"), "data.label='lable' is not a column of 'FILE'; nearest: 'label'"),
        (dict(columns=("text", "label", "id")), "4 of 4 rows in 'FILE' are bad (a.csv:1 has 2 fields for 3 columns"),
        (dict(target="classes"), "unknown data.target 'classes'; nearest: 'class'"),
        (dict(target="value"), "3 of 3 rows in 'FILE' are bad (a.csv:2 has a label that is not a number: 'good'"),
        (dict(separator=""), "expected data.separator to be a character between labels"),
        (
            dict(label="", target="value"),
            "data.target='value' is of the labels, and data.label names no column; set one",
        ),
        (dict(bad_rows=-1), "expected data.bad_rows to be a number >= 0, 'stop' or 'skip', found -1"),
        (dict(test_fraction=1.0), "expected data.test_fraction from 0 to below 1"),
    ],
)
def test_bad_options(tmp_path, options, message):
    with pytest.raises(InputError) as error:
        one(tmp_path, "a_csv", ROWS, **options)
    assert message.replace("FILE", str(tmp_path / "a.csv")) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (dict(books_tsv="x"), "expected train.csv, .tsv, .jsonl or .parquet in 'PATH', found books.tsv; set data.path"),
        ({}, "expected train.csv, .tsv, .jsonl or .parquet in 'PATH', found none; correct data.path"),
        (dict(train_csv=ROWS, train_tsv=ROWS), "expected one train file in 'PATH', found train.csv and train.tsv"),
        (dict(train_csv=ROWS, dev_csv=ROWS, val_csv=ROWS), "expected one val file in 'PATH', found dev.csv and va"),
        (dict(train_csv="text,label\n"), "expected rows in 'PATH/train.csv', found none; add some"),
        (dict(train_csv=""), "expected rows in 'PATH/train.csv', found none; add some"),
        (dict(train_csv=ROWS, test_csv="text,label\nx,odd\n"), "expected the labels of train, found 'odd' in 'PATH/te"),
        (dict(train_csv="text,text\nx,odd\n"), "expected columns of different names in 'PATH/train.csv', found text,"),
    ],
)
def test_bad_files(tmp_path, files, message):
    path = written(tmp_path / "data", **files)
    with pytest.raises(InputError) as error:
        source(path=path)
    assert message.replace("PATH", path) in str(error.value) and "\n" not in str(error.value)


def test_files_of_other_kinds(tmp_path):
    (tmp_path / "a.xlsx").write_bytes(b"")
    with pytest.raises(InputError, match=r"expected a \.csv, \.tsv, \.jsonl, \.parquet, \.arrow file, found .*a\.xlsx"):
        source(path=str(tmp_path / "a.xlsx"))
    (tmp_path / "b.csv").write_bytes("text,label\ncafé,a\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"expected UTF-8 text in .*b\.csv.*, found byte 0xe9"):
        source(path=str(tmp_path / "b.csv"))
    with pytest.raises(InputError, match="data source 'table' needs a path"):
        source()


@pytest.mark.parametrize(
    ("path", "options", "sizes", "classes"),
    [
        ("text/sst2", {}, (10000, None, 872), 2),
        ("text/trec6", {}, (5452, None, 500), 6),
        ("text/stsb", dict(text_pair="text_pair", label="score", target="value"), (5749, 1500, 1379), 0),
        ("text/radiology", dict(label="labels", target="labels"), (2678, 574, 574), 14),
        ("text/reviews/books.tsv", {}, (1200, None, None), 2),
    ],
)
def test_real_files(path, options, sizes, classes):
    data = source(path=shared(path), **options)
    assert tuple(len(data.splits[s]) if s in data.splits else None for s in ("train", "val", "test")) == sizes
    assert (len(data.classes), data.notes) == (classes, ())
