"""Folders of sounds: splits, speakers held out, channels, and rows that stop a run before it compiles."""

from __future__ import annotations

import numpy as np
import pytest
from etils import epath
from PIL import Image
from scipy.io import wavfile

import jaxfer.config
from jaxfer.conformance import sources
from jaxfer.data.sources import folder, sounds
from jaxfer.errors import InputError
from jaxfer.training.preflight import preflight
from tests.data import shared

TINY = dict(name="audio_cnn", widths=(4,), rate=8000, seconds=0.1, mels=8)


def write(root, *names, channels=1, rate=8000):
    """Sounds of 80 samples, the i-th all i / 128."""
    for i, name in enumerate(names):
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        wavfile.write(file, rate, np.full((80, channels), 256 * i, np.int16))
    return str(root)


def planned(path, source="sounds", **model):
    """Everything that a run checks before it compiles."""
    config = jaxfer.config.base()
    config.model = model or TINY
    config.data = dict(source=source, path=path)
    return preflight(config, epath.Path(path).parent / "run")


def test_folders_are_splits_and_classes(tmp_path):
    path = write(tmp_path, *(f"{split}/{name}" for split in ("train", "test") for name in ("no/0.wav", "yes/1.WAV")))
    data = sounds.source(path=path)
    assert data.classes == ("no", "yes") and data.notes == () and data.listed == tmp_path
    for name, split in data.splits.items():
        assert split.columns["audio"].kind == "audio" and split.labels.tolist() == [0, 1]
        assert split.columns["audio"].rates.tolist() == [8000] * 2
        assert split.columns["audio"].lengths.tolist() == [80] * 2
        np.testing.assert_array_equal(split.example("audio", 1), np.full(80, (1 if name == "train" else 3) / 128))
    assert [check(data) for check in sources.PROPERTIES] == [None] * len(sources.PROPERTIES)


def test_channels_are_averaged_and_counted(tmp_path):
    write(tmp_path, "a/0.wav", "a/1.wav", channels=2)
    data = sounds.source(path=write(tmp_path, "b/0.wav"))
    assert data.notes == ("2 of 3 sounds have several channels, which are averaged",)
    assert data.splits["train"].example("audio", 1).shape == (80,)
    write(tmp_path, "b/1.wav")
    assert sounds.source(path=str(tmp_path), test_fraction=0.5).notes == (
        "2 of 4 sounds have several channels, which are averaged",
    )


def test_a_speaker_is_held_out_by_name(tmp_path):
    path = write(tmp_path, *(f"{digit}/{who}_{n}.wav" for digit in "01" for who in ("ann", "bob", "joe") for n in "12"))
    whole, data = sounds.source(path=path), sounds.source(path=path, val_names=("bob_", "joe_2"))
    names = {k: [split.columns["audio"].names[row] for row in split.rows] for k, split in data.splits.items()}
    assert names["val"] == [f"{digit}/{name}.wav" for digit in "01" for name in ("bob_1", "bob_2", "joe_2")]
    assert names["train"] == [f"{digit}/{name}.wav" for digit in "01" for name in ("ann_1", "ann_2", "joe_1")]
    assert data.provenance["val"] == "of train: data.val_names=bob_,joe_2"
    assert whole.fingerprint != data.fingerprint
    with pytest.raises(InputError, match=r"expected parts of file names such as 'ann_1.wav', found 'eve'"):
        sounds.source(path=path, val_names=("ann", "eve"))
    with pytest.raises(InputError, match="leaves no sound to train on; name fewer"):
        sounds.source(path=path, val_names=(".wav",))
    write(tmp_path / "split", "train/a/x.wav", "val/a/y.wav")
    with pytest.raises(InputError, match="has no effect where a val folder exists"):
        sounds.source(path=str(tmp_path / "split"), val_names=("x",))


def test_speakers_are_chosen_by_name(tmp_path):
    speech = [f"{digit}/{who}_{n}.wav" for digit in "01" for who in ("ann", "bob") for n in "12"]
    path = write(tmp_path, *(f"train/{file}" for file in speech), "test/0/eve_1.wav", "test/1/eve_1.wav")
    whole, data = sounds.source(path=path), sounds.source(path=path, names=("ann_",), test_fraction=0.5)
    names = {k: [split.columns["audio"].names[row] for row in split.rows] for k, split in data.splits.items()}
    assert sorted(names["train"] + names["test"]) == [f"train/{digit}/ann_{n}.wav" for digit in "01" for n in "12"]
    assert len(names["test"]) == 2 and whole.fingerprint != data.fingerprint
    both = sounds.source(path=path, names=("ann_", "eve_"))
    assert {k: len(split) for k, split in both.splits.items()} == {"train": 4, "test": 2}
    with pytest.raises(InputError, match=r"data.names: expected parts of file names such as 'ann_1.wav', found 'joe'"):
        sounds.source(path=path, names=("ann_", "joe"))
    with pytest.raises(InputError, match="leaves nothing to train on; name files of train too"):
        sounds.source(path=path, names=("eve_",))
    write(tmp_path / "more", "0/ann_1.wav", "1/bob_1.wav")
    with pytest.raises(InputError, match="class '1' of train has no such file; name more"):
        sounds.source(path=str(tmp_path / "more"), names=("ann_",))


BAD = {
    "not a wav": (b"\xff\xfb\x90\0ID3, an mp3 renamed", "it is no RIFF WAVE file"),
    "cut short": (None, "it is cut short: 100 of 160 bytes of samples"),
    "empty": (b"", "it is empty"),
}


@pytest.mark.parametrize(("content", "reason"), BAD.values(), ids=BAD)
def test_a_bad_file_is_one_line_before_anything_compiles(content, reason, tmp_path):
    path = write(tmp_path / "data", *(f"{name}/{i}.wav" for name in "ab" for i in range(3)))
    assert len(planned(path).data.splits["train"]) == 4
    file = tmp_path / "data" / "b" / "1.wav"
    file.write_bytes(file.read_bytes()[:-60] if content is None else content)
    with pytest.raises(InputError, match=r"expected a readable \.wav, found '.*b/1\.wav'") as caught:
        planned(path)
    assert reason in str(caught.value) and "\n" not in str(caught.value)


def test_images_and_sounds_are_not_confused(tmp_path):
    heard = write(tmp_path / "heard", *(f"{name}/{i}.wav" for name in "ab" for i in range(3)))
    for name in ("seen/a", "seen/b"):
        (tmp_path / name).mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (8, 8)).save(tmp_path / name / f"{i}.png")
    seen, resnet = str(tmp_path / "seen"), dict(name="resnet", stage_sizes=(1,), width=4, image=(8, 8, 3))
    with pytest.raises(InputError, match="the model reads images, the data source has sounds; choose another"):
        planned(heard, **resnet)
    with pytest.raises(InputError, match="the model reads sounds, the data source has images; choose another"):
        planned(seen, source="folder")
    with pytest.raises(InputError, match=r"expected images .*, found none; it has \.wav: data.source='sounds' reads"):
        folder.source(path=heard)
    with pytest.raises(InputError, match=r"expected sounds .*, found none; it has \.png: data.source='folder' reads"):
        sounds.source(path=seen)


def test_the_spoken_digits_are_read():
    data = sounds.source(path=shared("audio/fsdd"))
    assert data.classes == tuple("0123456789")
    assert {name: np.bincount(split.labels).tolist() for name, split in data.splits.items()} == {
        "train": [80] * 10,
        "test": [40] * 10,
    }
