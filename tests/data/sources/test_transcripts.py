"""Tables of sounds and words: splits, rates, and rows that are left out by number or stop the run."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.io import wavfile

from jaxfer.data.sources import transcripts
from jaxfer.errors import InputError


@pytest.fixture
def spoken(tmp_path):
    """Two training sounds and a test one; the last training row is what `row` says."""

    def write(row="b.wav,two words", columns="file_name,transcription"):
        for name, length in (("a.wav", 80), ("b.wav", 160), ("c.wav", 40)):
            wavfile.write(tmp_path / name, 8000, np.zeros(length, np.int16))
        (tmp_path / "train.csv").write_text(f"{columns}\na.wav,one\n{row}\n")
        (tmp_path / "test.csv").write_text(f"{columns}\nc.wav,three\n")
        return str(tmp_path)

    return write


def test_a_row_is_a_sound_and_its_words(spoken):
    data = transcripts.source(path=spoken())
    assert {split: len(data.splits[split]) for split in data.splits} == {"train": 2, "test": 1}
    columns = data.splits["train"].columns
    assert set(columns) == {"audio", "target_text"} and data.classes == ()
    assert [columns["target_text"][row] for row in range(2)] == ["one", "two words"]
    assert data.provenance == {"train": "train.csv", "test": "test.csv"}


@pytest.mark.parametrize(
    ("row", "problem"),
    [("b.wav,", "has no words"), ("d.wav,four", "names no file: 'd.wav'"), ("train.csv,five", "names no sound")],
)
def test_a_bad_row_stops_the_run_or_is_left_out(row, problem, spoken):
    path = spoken(row)
    with pytest.raises(InputError, match=problem):
        transcripts.source(path=path)
    data = transcripts.source(path=path, bad_rows=1)
    assert len(data.splits["train"]) == 1 and data.left_out == 1


def test_a_column_that_is_not_there(spoken):
    with pytest.raises(InputError, match="data.target='transcription' is not a column"):
        transcripts.source(path=spoken(columns="file_name,words"))
