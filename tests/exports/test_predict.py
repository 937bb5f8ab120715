"""Answers for files and texts: the same from a run and from its export, by hand where it counts."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile
from sklearn.datasets import load_digits

import jaxfer
import jaxfer.config
from jaxfer.commands import main
from jaxfer.data.encodings import wav
from jaxfer.data.encodings.image import ImageEncoding
from jaxfer.errors import InputError
from jaxfer.exports import inputs
from jaxfer.exports.predict import Model, load_model
from jaxfer.models.port import Passed
from jaxfer.network import Network
from jaxfer.pretrained import foreign
from jaxfer.runs.finished import open_run
from tests.experiments import PHRASES, TOKENIZER
from tests.models.tiny import TINY
from tests.pretrained.checkpoints import checkpoint, edit, text_config


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A small network that has learnt the digits 0 to 2, and three of them as PNGs."""
    folder = tmp_path_factory.mktemp("digits")
    config = jaxfer.config.base()
    config.model = dict(name="resnet", stage_sizes=(1,), width=8, image=(32, 32, 1))
    config.data = dict(source="digits", classes=("0", "1", "2"), val_per_class=20)
    config.update(batch_size=32, steps=80, lr=1e-2, eval_every=0, save_every=0)
    jaxfer.run(config, folder / "run", quiet=True)
    data, files = load_digits(), []
    for label in (2, 0, 1):
        row = np.flatnonzero(data.target == label)[0]
        files.append(str(folder / f"{label}.png"))
        Image.fromarray(np.rint(data.images[row] * 255 / 16).astype(np.uint8)).save(files[-1])
    return folder / "run", jaxfer.export(folder / "run"), files


@pytest.mark.system
def test_a_run_and_its_export_know_their_digits(digits):
    run, export, files = digits
    ours, theirs = jaxfer.predict(run, files), jaxfer.predict(export, files)
    assert [answer.labels for answer in ours] == [("2",), ("0",), ("1",)] and ours == theirs
    for answer in ours:
        chances = list(answer.probabilities.values())
        assert sum(chances) == pytest.approx(1) and chances == sorted(chances, reverse=True)


def test_probabilities_are_the_softmax_of_the_logits(digits):
    run, _, files = digits
    finished, port = open_run(run), load_model(run).port
    pixels = np.asarray(Image.open(files[0]).resize((32, 32), Image.Resampling.BILINEAR), np.float32) / 255
    logits, _ = port.apply(*finished.stage.leave(finished.state), {"image": (pixels[None, ..., None] - 0.5) / 0.5})
    expected = jax.nn.softmax(logits[0])
    found = jaxfer.predict(run, files[:1])[0].probabilities
    np.testing.assert_allclose([found[name] for name in "012"], expected, atol=1e-6)


def test_the_order_and_number_of_files_change_nothing(digits):
    run, _, files = digits
    model = load_model(run)
    alone = [jaxfer.predict(model, [file])[0] for file in files]
    together = jaxfer.predict(model, files * 3, batch_size=4)
    for i, answer in enumerate(together):
        assert (answer.input, answer.labels) == (alone[i % 3].input, alone[i % 3].labels)
        assert answer.probabilities == pytest.approx(alone[i % 3].probabilities, abs=1e-6)


def test_the_command_prints_a_table_and_names_what_it_cannot_read(digits, capsys, tmp_path):
    run, export, files = digits
    torn = tmp_path / "torn.png"
    torn.write_bytes(b"not an image")
    assert main(["predict", str(run), files[0], str(torn), files[1]]) == 2
    said = capsys.readouterr()
    rows = [line.split() for line in said.out.splitlines()]
    assert [(name, label) for name, label, _ in rows] == [(files[0], "2"), (files[1], "0")]
    assert len(said.err.splitlines()) == 1 and f"found '{torn}'" in said.err
    assert main(["predict", str(export), files[0], str(torn), "--json"]) == 2
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["labels"] == ["2"] and set(first["probabilities"]) == {"0", "1", "2"}
    assert second["input"] == str(torn) and "readable image" in second["error"]


def test_sounds_are_files_or_samples_and_a_table_of_them_is_scored(tmp_path, capsys):
    """Tones of at most 250 Hz are low, those of at least 2,000 high."""
    for split, kinds in {"train": 6, "test": 2}.items():
        for i in range(kinds):
            for name, hertz in {"low": 200 + 10 * i, "high": 2000 + 50 * i}.items():
                file = tmp_path / "tones" / split / name / f"{i}.wav"
                file.parent.mkdir(parents=True, exist_ok=True)
                samples = np.sin(2 * np.pi * hertz * np.arange(1600) / 8000)
                wavfile.write(file, 8000, np.rint(samples * 20000).astype(np.int16))
    config = jaxfer.config.base()
    config.model = dict(name="audio_cnn", widths=(4, 4, 4, 4), rate=8000, mels=20, seconds=0.2)
    config.data = dict(source="sounds", path=str(tmp_path / "tones"), val_names=("5.wav",))
    config.update(batch_size=10, steps=40, lr=3e-2, eval_every=0, save_every=0)
    jaxfer.run(config, tmp_path / "run", quiet=True)
    low, high = (str(tmp_path / "tones/test" / name / "0.wav") for name in ("low", "high"))
    torn = tmp_path / "torn.wav"
    torn.write_bytes(b"RIFF")
    assert main(["predict", str(tmp_path / "run"), low, str(torn), high, "--json"]) == 2
    said = capsys.readouterr()
    first, second, third = map(json.loads, said.out.splitlines())
    assert (first["labels"], third["labels"]) == (["low"], ["high"]) and "readable .wav" in second["error"]
    model = load_model(tmp_path / "run")
    heard = [(wav.decode(Path(high)), 8000), Path(low)]
    given = jaxfer.predict(model, heard)
    assert [answer.input for answer in given] == ["input 0", low]
    assert given[0].probabilities == pytest.approx(third["probabilities"], abs=1e-6)
    for bad, found in (((), "a tuple"), (5, "5"), ((heard[0][0], 0), r"\(float32 \[1600\], 0\)")):
        with pytest.raises(InputError, match=r"inputs\[0\]: expected a .wav file, or .*, found " + found):
            jaxfer.predict(model, [bad])
    table = tmp_path / "tones/heard.csv"
    table.write_text("file,label\ntest/low/0.wav,low\ntest/high/1.wav,high\nnone.wav,low\ntest/low/1.wav,high\n")
    scored = jaxfer.score(tmp_path / "run", table)
    assert scored.metrics["accuracy"] == pytest.approx(2 / 3) and "none.wav" in scored.predictions[2].error
    assert [answer.expected for answer in scored.predictions] == ["low", "high", "low", "high"]


@pytest.mark.system
@pytest.mark.parametrize("pool", ["pooler", "mean"])
def test_texts_from_the_command_line_and_from_files(pool, tmp_path):
    jaxfer.run(text_config(tmp_path / "source", pool), tmp_path / "run", quiet=True)
    phrases = [line.split("\t")[0] for line in Path(PHRASES, "train.tsv").read_text().splitlines()[1:5]]
    file = tmp_path / "phrases.txt"
    file.write_text("\n".join(phrases) + "\n\n")
    given = jaxfer.predict(tmp_path / "run", phrases, text=True)
    read = jaxfer.predict(tmp_path / "run", [str(file), str(tmp_path / "nothing.txt")])
    assert [answer.input for answer in given] == phrases and given == read[:-1]
    assert "No such file" in read[-1].error
    model = load_model(tmp_path / "run")
    (alone,) = jaxfer.predict(model, phrases[0], text=True)
    assert alone.input == phrases[0] and alone.probabilities == pytest.approx(given[0].probabilities, abs=1e-6)
    assert jaxfer.predict(model, [(phrases[0], "a")], text=True) == jaxfer.predict(model, f"{phrases[0]}\ta", text=True)
    with pytest.raises(InputError, match="or two separated by a tab on every line"):
        jaxfer.predict(model, ["a", "a\tb"], text=True)
    with pytest.raises(InputError, match=r"inputs\[1\]: expected a text, or a pair of texts, found 5"):
        jaxfer.predict(model, ["a", 5], text=True)
    strange = tmp_path / "strange.txt"
    strange.write_bytes("\ufeffgood\u2028bad\x0cfilm\r\n \r\nfilm\n".encode())  # two lines, whatever Python says
    assert [answer.input for answer in jaxfer.predict(model, strange)] == ["good\u2028bad\x0cfilm", "film"]
    (tmp_path / "blank.txt").write_text("\n  \n")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    bad = ["blank.txt", "latin.txt", ".", "none.txt", "rows.csv", "a text itself"]
    answers = jaxfer.predict(model, [*(str(tmp_path / name) for name in bad[:-1]), bad[-1], strange])
    reasons = (
        "found none; add some",
        "not UTF-8",
        "Is a directory",
        "No such file",
        "use --labelled",
        "--text (text=",
    )
    assert [reason in answer.error for reason, answer in zip(reasons, answers[:6], strict=True)] == [True] * 6
    assert [answer.error for answer in answers[6:]] == [None, None]
    (answer,) = jaxfer.predict(model, "caf\udce9", text=True)  # as Python reads an argument that is no UTF-8
    assert (answer.input, "not UTF-8" in answer.error) == ("caf\\udce9", True)


def test_values_and_sets(digits):
    """By hand: logits (0, log 3) are sigmoids (1/2, 3/4); a regression answers with its output."""
    run, _, files = digits

    class Constant:
        encoding = load_model(run).port.encoding
        encodings = (encoding,)

        def forward(self, params, state, batch, taps):
            return Passed(jax.numpy.zeros((len(batch["image"]), 1)) + params, state, {})

    def answer(logits, labels, task):
        network = Network(port=Constant(), params=np.float32(logits), model_state={})
        model = Model(network=network, labels=labels, task=task)
        return jaxfer.predict(model, files[:1])[0]

    found = answer([-1e-3, np.log(3)], ("a", "b"), "multilabel")
    assert found.labels == ("b",) and found.probabilities == pytest.approx({"b": 0.75, "a": 0.49975})
    assert answer([2.5], ("LABEL_0",), "regression").value == 2.5
    for logits in ([np.nan, 0], [np.inf, 0], [-np.inf, 0]):
        for task in ("classification", "multilabel", "regression"):
            found = answer(logits, ("a", "b"), task)
            assert f"expected finite outputs for {files[0]!r}, found {logits[0]:g}, 0; check" in found.error
            assert (found.labels, found.probabilities, found.value) == ((), {}, None)


def test_pictures_arrays_and_a_single_file_are_what_their_files_are(digits, tmp_path):
    run, _, files = digits
    model = load_model(run)
    expected = [jaxfer.predict(model, file)[0] for file in files]  # one file each
    pictures = [Image.open(file) for file in files]
    arrays = np.stack([np.asarray(picture)[..., None] for picture in pictures])
    palette = [picture.convert("P") for picture in pictures]
    for given in (pictures, arrays, list(arrays[..., 0]), palette, iter(map(Path, files))):
        found = jaxfer.predict(model, given)
        assert [(a.labels, a.error) for a in found] == [(a.labels, None) for a in expected]
        for answer, same in zip(found, expected, strict=True):
            assert answer.probabilities == pytest.approx(same.probabilities, abs=1e-6)
    (alone,) = jaxfer.predict(model, arrays[1])
    assert (alone.input, alone.labels) == ("input 0", ("0",))
    assert [answer.input for answer in jaxfer.predict(model, [files[0], pictures[1]])] == [files[0], "input 1"]
    (missing,) = jaxfer.predict(model, str(tmp_path / "none.png"))
    assert "No such file" in missing.error
    assert jaxfer.predict(model, []) == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([None], r"inputs\[0\]: expected an image file, an array or a Pillow image, found None"),
        (None, "inputs: expected a file, a text, an image or a list of them, found None"),
        ({"a.png": 1}, "inputs: expected a file, .* found a dict"),
        (np.zeros((8, 8, 3)), r"inputs\[0\]: expected uint8 \[height, width, channels\], found float64 \[8, 8, 3\]"),
        (np.zeros((8, 8, 5), np.uint8), r"found uint8 \[8, 8, 5\]"),
        (np.array(3, np.uint8), r"found uint8 \[\]"),
    ],
)
def test_inputs_that_are_none(given, message, digits):
    with pytest.raises(InputError, match=message):
        jaxfer.predict(digits[0], given)


def test_sources_that_are_none(digits):
    for source in (None, 5, b"run", ""):
        with pytest.raises(InputError, match="expected the path of a folder, found"):
            jaxfer.predict(source, digits[2])
    with pytest.raises(InputError, match="batch_size: expected at least 1, found 0"):
        jaxfer.predict(digits[0], digits[2], batch_size=0)
    with pytest.raises(InputError, match="https://x/y: expected a folder, gs:// or s3://"):
        jaxfer.predict("https://x/y", digits[2])


def test_outputs_that_are_no_numbers_are_an_error(digits):
    run, _, files = digits
    model = load_model(run)
    broken = jax.tree.map(lambda leaf: leaf * np.nan, model.params)
    (answer,) = jaxfer.predict(
        dataclasses.replace(model, network=dataclasses.replace(model.network, params=broken)), files[:1]
    )
    assert answer.error.startswith(f"expected finite outputs for '{files[0]}', found nan") and not answer.probabilities


def test_what_can_not_answer(digits, tmp_path):
    run, _, files = digits
    with pytest.raises(InputError, match="--text: the model reads images"):
        jaxfer.predict(run, ["a"], text=True)
    with pytest.raises(InputError, match="no such folder or file"):
        jaxfer.predict(str(tmp_path / "nowhere"), files)
    assert main(["predict", str(run), files[0], "--config.data.path=x"]) == 2


@pytest.mark.parametrize(
    ("stated", "answering", "training"), [(150, 150, 128), (None, 128, 128), (400, 200, 128), (9, 9, 9)]
)
def test_texts_are_cut_where_the_checkpoint_states(stated, answering, training, tmp_path):
    """Training cuts at 128 tokens for its cost; answering costs little, and is what other tools do."""
    options = {name: value for name, value in TINY["bert_pooler"][1].items() if name not in ("outputs", "max_length")}
    shutil.copytree(TOKENIZER, tmp_path / "source")
    checkpoint(tmp_path / "source", "bert", {**options, "positions": 200}, labels=("bad", "good", "plain"))
    edit(tmp_path / "source" / "tokenizer_config.json", model_max_length=stated)
    assert load_model(tmp_path / "source").port.encoding.max_length == answering
    assert foreign.opened(str(tmp_path / "source"), "auto", {}).options["max_length"] == training


def test_a_photograph_stands_upright_as_a_file_and_as_a_pillow_image(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # held upright: the stored rows run from top to bottom of the picture's right side
    Image.fromarray(np.array([[1, 2, 3], [4, 5, 6]], np.uint8)).save(tmp_path / "a.png", exif=exif)
    given = [tmp_path / "a.png", Image.open(tmp_path / "a.png")]
    found = inputs.images(given, ImageEncoding(size=(3, 2, 1)))
    assert [found.column[i][..., 0].tolist() for i in range(2)] == [[[4, 1], [5, 2], [6, 3]]] * 2
