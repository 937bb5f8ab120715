"""Labels as pandas, NumPy and JSON write them, through the table source."""

from __future__ import annotations

import pytest

from jaxfer.errors import InputError

from .test_table import one


def test_lists_that_pandas_wrote_as_text(tmp_path):
    content = "text,labels\n" + "".join(
        f'{i},"{field}"\n' for i, field in enumerate(["['x', 'y;z']", "[]", "[1, 2]", "[joy]; x", '[""x""]'])
    )
    data = one(tmp_path, "a_csv", content, target="labels")
    assert data.classes == ("1", "2", "[joy]", "x", "y;z")
    assert data.splits["train"].labels.astype(int).tolist() == [
        [0, 0, 0, 1, 1],
        [0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 1, 1, 0],
        [0, 0, 0, 1, 0],
    ]
    for field in ("['x' 'y']", "[1 2]", "['x', f()]", "['x'"):  # NumPy's, and what is no list
        with pytest.raises(InputError, match="1 of 1 rows in .* are bad .*has no list of labels"):
            one(tmp_path, "b_csv", f'text,labels\na,"{field}"\n', target="labels")


@pytest.mark.parametrize(
    ("labels", "classes", "notes"),
    [
        (["10.0", "1.0", "2.0", "-1.5"], ("-1.5", "1.0", "2.0", "10.0"), []),
        (["10", "9", "1" * 5000], ("9", "10", "1" * 5000), []),
        (["5", "--5", "10"], ("--5", "10", "5"), []),
        (["1", "1.0"], ("1", "1.0"), ["classes '1' and '1.0' are the same number; they are kept separate"]),
        (
            ["pos", "neg", "Pos"],
            ("Pos", "neg", "pos"),
            ["classes 'Pos' and 'pos' differ only in case; they are kept separate"],
        ),
    ],
)
def test_the_order_of_classes_and_those_that_look_alike(tmp_path, labels, classes, notes):
    data = one(tmp_path, "a_csv", "text,label\n" + "".join(f"t,{label}\n" for label in labels))
    assert data.classes == classes
    assert list(data.notes) == notes


def test_numbers_as_classes_in_json(tmp_path):
    data = one(tmp_path, "a_jsonl", [{"text": "a", "label": 1.0}, {"text": "b", "label": 0.0}])
    assert (data.classes, data.splits["train"].labels.tolist()) == (("0.0", "1.0"), [1, 0])


@pytest.mark.parametrize(
    ("row", "target", "message"),
    [
        (
            '{"text": "half \\ud800", "label": 1}',
            "class",
            "a.jsonl:2 has an unpaired surrogate, which is not a character",
        ),
        ('{"text": "b", "label": "\\udce9"}', "class", "a.jsonl:2 has an unpaired surrogate"),
        ('{"text": "b", "label": 1e39}', "value", "a.jsonl:2 has a label beyond float32: 1e+39"),
        ('{"text": "b", "label": "-1e300"}', "value", "a.jsonl:2 has a label beyond float32: '-1e300'"),
        ('{"text": "b", "label": 1%s}' % ("0" * 400), "value", "a.jsonl:2 has a label beyond float32: 100000"),
        ('{"text": "b", "label": NaN}', "class", "a.jsonl:2 has no class: nan"),
    ],
)
def test_texts_and_labels_that_nothing_can_hold(tmp_path, row, target, message):
    with pytest.raises(InputError) as error:
        one(tmp_path, "a_jsonl", '{"text": "a", "label": 1}\n' + row, target=target)
    assert f"1 of 2 rows in '{tmp_path}/a.jsonl' are bad ({message}" in str(error.value)
