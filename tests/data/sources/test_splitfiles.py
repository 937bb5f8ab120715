"""Which file of a folder holds which split."""

from __future__ import annotations

import pytest

from jaxfer.data.sources.table import source
from jaxfer.errors import InputError

from .test_table import ROWS, written


def test_split_files_by_name(tmp_path):
    path = written(tmp_path / "data", one_csv=ROWS, two_csv=ROWS, val_csv=ROWS, test_data="text;label\nt;bad\n")
    data = source(path=path, train="one.csv", val="none")
    assert (set(data.splits), data.provenance) == ({"train"}, {"train": "one.csv"})
    assert data.notes == (
        "2 files not read (two.csv, val.csv); data.train, data.val and data.test choose the files to read",
    )
    beside = source(path=f"{path}/one.csv", val="two.csv")
    assert (beside.provenance, beside.notes) == ({"train": "one.csv", "val": "two.csv"}, ())


def test_files_of_other_suffixes_need_a_delimiter(tmp_path):
    path = written(tmp_path / "data", train_txt=ROWS.replace(",", ";"))
    with pytest.raises(InputError, match="found train.txt; rename or convert it, or set data.delimiter"):
        source(path=path)
    assert source(path=path, delimiter=";").provenance == {"train": "train.txt"}


def test_training_is_never_left_out(tmp_path):
    with pytest.raises(InputError, match="data.train='none': a run needs training rows; name a file"):
        source(path=written(tmp_path / "data", train_csv=ROWS), train="none")
