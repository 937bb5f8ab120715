"""Planted faults of images, texts and columns; the thresholds are those of docs/evidence.md."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import jaxfer
import jaxfer.config
from jaxfer.diagnosis import images, rows
from jaxfer.diagnosis.shortcuts import shortcut
from tests.doctor.test_duplicates_and_classes import by_kind, photos
from tests.experiments import TOKENIZER, tiny_config


def test_images(tmp_path):
    """One dark, one bright, one blank and one blurred among 48 photos."""

    def change(given, labels):
        train = given["train"]
        train[1] = train[1] // 8
        train[2] = 232 + train[2] // 12
        train[3] = 128
        train[4] = np.linspace(90, 160, 24).astype(np.uint8)[None, :, None]

    found = by_kind(jaxfer.doctor(photos(tmp_path, change), quiet=True))
    for kind, row in (("dark", 1), ("bright", 2), ("blank", 3), ("blurry", 4)):
        assert [(e.split, e.row) for e in found[kind].examples] == [("train", row)], kind
        assert found[kind].value == 1 / 48
    assert [found[kind].severity for kind in ("blank", "dark", "bright", "blurry")] == ["severe", *["warning"] * 3]
    assert (
        not {"dark", "bright", "blank", "blurry", "aspect", "small"}
        & by_kind(jaxfer.doctor(photos(tmp_path), quiet=True)).keys()
    )


def test_shapes_of_files(tmp_path):
    """Of 12 files of 20 x 24 one is three times as wide, and one is smaller than half of what the model reads."""
    rng = np.random.default_rng(0)
    for i in range(12):
        size = {3: (20, 72), 7: (9, 11)}.get(i, (20, 24))
        file = tmp_path / "photos" / "ab"[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(file)
    config = photos(tmp_path)
    config.data = dict(source="folder", path=str(tmp_path / "photos"), val_per_class=1)
    found = [f for f in jaxfer.doctor(config, quiet=True).findings if f.kind in ("aspect", "small")]
    assert {(f.kind, e.name, e.says) for f in found for e in f.examples} == {
        ("aspect", "b/3.png", "72 x 20"),
        ("small", "b/7.png", "11 x 9"),
    }


def test_texts(tmp_path):
    """One of ten has no word, one has 11 tokens where the model reads 8, and 4 of 22 tokens are unknown."""
    train = ["good film", "bad film", "!", "good plot", "bad plot", "very good film a plot was bad and good"]
    train += ["a xyzzy film", "plugh plugh plugh", "a good", "a bad"]
    lines = [f"{text}\t{'good' if i % 2 else 'bad'}" for i, text in enumerate(train)]
    (tmp_path / "train.tsv").write_text("\n".join(["text\tlabel", *lines]))
    (tmp_path / "val.tsv").write_text("text\tlabel\nplain film\tgood\nplain song\tbad\n")
    config = tiny_config("bert_pooler", steps=5, batch_size=4)
    config.data.path = str(tmp_path)
    config.model.update(tokenizer=TOKENIZER, max_length=8, buckets=(8,))
    found = by_kind(jaxfer.doctor(config, quiet=True))
    assert [(e.row, e.name) for e in found["empty"].examples] == [(2, "!")] and found["empty"].severity == "severe"
    cut = found["cut"]
    assert [(e.row, e.says) for e in cut.examples] == [(5, "11 tokens")] and cut.value == 0.1
    # Of each of ten texts two more tokens are special: 11 and 7 * 2 + 3 * 2 + ... in all, 3 of them lost.
    whole = [len(text.split()) + 2 for text in train]
    assert f"{100 * 3 / sum(whole):.2g} % of all tokens are lost" in cut.message
    unknown = found["unknown_tokens"]
    assert unknown.value == pytest.approx(4 / (sum(whole) - 20 - 3)) and unknown.severity == "warning"
    assert [(e.row, e.says) for e in unknown.examples[:2]] == [(7, "3 unknown tokens"), (6, "1 unknown tokens")]


def test_pairs_that_are_read_apart(tmp_path, monkeypatch):
    """The second text of one of 4 is cut; of 26 words of train, two that are unknown are in second texts."""
    monkeypatch.chdir(Path(__file__).parents[2])
    config = jaxfer.load("configs/stsb_similarity.py:tiny")
    pairs = [("the film", "the plot"), ("a song", "a very good plot was a very bad plot"), ("good", "xyzzy plugh")]
    pairs += [("very bad", "not a good film")]
    lines = [f"{a}\t{b}\t{i}" for i, (a, b) in enumerate(pairs)]
    for name in ("train", "val"):
        (tmp_path / f"{name}.tsv").write_text("\n".join(["text\ttext_pair\tscore", *lines]))
    config.data.path = str(tmp_path)
    found = by_kind(jaxfer.doctor(config, quiet=True))
    assert [(e.row, e.says) for e in found["cut"].examples] == [(1, "11 tokens")] and found["cut"].value == 0.25
    assert found["unknown_tokens"].value == pytest.approx(2 / (2 + 2 + 2 + 6 + 1 + 2 + 2 + 4))
    assert [(e.row, e.says) for e in found["unknown_tokens"].examples] == [(2, "2 unknown tokens")]


def test_windows_hold_all_of_a_text(tmp_path, monkeypatch):
    """No text is cut; what is unknown is counted of all of it."""
    monkeypatch.chdir(Path(__file__).parents[2])
    config = jaxfer.load("configs/squad_small.py:tiny")
    context = "The plot was bad. A song was very plain! The film was xyzzy."
    row = {"context": context, "question": "The song?", "answers": [{"text": "very plain", "start": 29}]}
    for name in ("train", "dev"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"id": name, **row}))
    config.data.path = str(tmp_path)
    found = by_kind(jaxfer.doctor(config, quiet=True))
    assert "cut" not in found and found["unknown_tokens"].value == pytest.approx(1 / 19)


def test_targets_that_are_cut(tmp_path):
    """Of four targets one has seven tokens and the end, where the decoder is to write five."""
    rows = [{"source": f"the {x}", "target": "a very bad film was not good" if x == "song" else "good"} for x in SAYS]
    for name in ("train", "val"):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = tiny_config("t5", steps=2, batch_size=4)
    config.model.update(tokenizer=TOKENIZER, target_length=5)
    config.data = dict(source="text_to_text", path=str(tmp_path))
    config.task = dict(name="seq2seq")
    found = by_kind(jaxfer.doctor(config, quiet=True))["cut"]
    assert "1 of 4 targets of train (25 %) are longer than 5 tokens" in found.message
    assert [(e.row, e.says) for e in found.examples] == [(1, "8 tokens")]
    assert found.fix.startswith("raise config.model.target_length")


SAYS = ("film", "song", "plot", "very film")


def test_brightness_that_gives_the_class_away(tmp_path):
    def change(given, labels):
        given["train"][labels["train"] == 1] //= 2

    found = [f for f in jaxfer.doctor(photos(tmp_path, change), quiet=True).findings if f.kind == "shortcut"]
    assert {f.message.partition(" alone")[0] for f in found} == {"The brightness", "The sharpness"}
    assert all(f.value >= 0.8 for f in found)
    assert "shortcut" not in by_kind(jaxfer.doctor(photos(tmp_path), quiet=True))


@pytest.fixture
def table(tmp_path):
    """60 rows: `leak` is the label with noise, `code` its word, `gap` mostly missing, `same` constant."""
    rng = np.random.default_rng(1)
    with open(tmp_path / "train.csv", "w") as file:
        out = csv.writer(file)
        out.writerow(["size", "leak", "gap", "same", "code", "shade", "label"])
        for i in range(60):
            y = i % 2
            gap = "" if i % 5 < 3 else f"{rng.normal():.3f}"
            shade = ("light", "dark")[int(rng.integers(2))]
            out.writerow([f"{rng.normal() + y:.3f}", f"{y + rng.random() / 2:.2f}", gap, 1, "xy"[y], shade, "ab"[y]])
    config = jaxfer.config.base()
    config.model = dict(name="row_mlp", width=4, mlp_width=6, embedding=2)
    config.data = dict(source="csv_rows", path=str(tmp_path / "train.csv"), label="label", test_fraction=0.2)
    config.data.update(numbers=("size", "leak", "gap", "same"), categories=("code", "shade"))
    config.update(batch_size=4, steps=20)
    return config


def test_rows_that_can_not_be_read(table, tmp_path):
    with open(tmp_path / "train.csv", "a") as file:
        file.write("word,1,,1,x,light,a\n1,2\n")
    diagnosis = jaxfer.doctor(table, quiet=True)
    found = by_kind(diagnosis)["left_out"]
    assert (found.severity, found.value, found.threshold) == ("severe", 2 / 62, 1 / 62)
    assert [example.name for example in found.examples] == ["train.csv:62", "train.csv:63"]
    assert sum(diagnosis.examples.values()) == 60


def test_columns(table):
    found = [f for f in jaxfer.doctor(table, quiet=True).findings if f.kind in ("shortcut", "constant_column")]
    assert {(f.kind, f.message.split()[1], f.severity) for f in found} == {
        ("shortcut", "leak", "severe"),
        ("shortcut", "code", "severe"),
        ("constant_column", "same", "warning"),
    }
    missing = by_kind(jaxfer.doctor(table, quiet=True))["missing_values"]
    assert missing.severity == "warning" and missing.value == pytest.approx(0.6, abs=0.06)
    table.data.update(numbers=("size",), categories=("shade",))
    kinds = by_kind(jaxfer.doctor(table, quiet=True)).keys()
    assert not {"shortcut", "constant_column", "missing_values"} & kinds


def test_a_value_that_is_missing_may_give_the_label_away():
    values = [1.0 if i % 2 else None for i in range(40)]
    (found,) = shortcut("seen", rows._readable(values, True), np.arange(40) % 2, rows.SHORTCUT, "")
    assert (found.value, found.severity) == (1.0, "severe")


def test_thresholds_are_those_of_the_page():
    assert (images.DARK, images.BRIGHT, images.BLANK, images.BLURRY) == (64, 230, 2, 0.02)


def test_a_model_of_words_has_fields_for_targets_besides(monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    config = jaxfer.load("configs/wnut17.py:tiny")
    assert jaxfer.doctor(config, quiet=True).examples["train"]
