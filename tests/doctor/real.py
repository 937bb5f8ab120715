"""Small real sets in which faults are planted: digits, photos, questions, patients, heartbeats.

A function makes a set: what a plant edits, its config, and `write`, which puts the data into the folder. Each leaves a
val of 100 examples or more where the set has as many, so that its size is no finding.
"""

from __future__ import annotations

import csv
import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

import jaxfer.config
from tests.data import shared
from tests.experiments import TOKENIZER, tiny_config


@dataclasses.dataclass
class Small:
    """A set before it is written.

    Attributes:
      folder: of its files.
      config: of it.
      data: {split: what a plant edits}: images and labels, rows, or series; of photos, the folders of classes.
      write: writes it.
      examples: of a split to look at; 0: all.
    """

    folder: Path
    config: ConfigDict
    data: dict[str, Any]
    write: Callable[[], None] = lambda: None
    examples: int = 0


def digits(folder: Path) -> Small:
    """160 of the digits 0 to 3 to train on, 100 for val and 60 for test."""
    arrays, data, begin = np.load(shared("vision/usps.npz")), {}, 0
    rows = np.flatnonzero(arrays["train_label"] < 4)
    for split, count in (("train", 160), ("val", 100), ("test", 60)):
        own, begin = rows[begin : begin + count], begin + count
        data |= {f"{split}_image": arrays["train_image"][own].copy(), f"{split}_label": arrays["train_label"][own]}
    config = tiny_config("resnet_basic", steps=100, batch_size=8)
    config.model.image = (16, 16, 1)
    config.data = dict(source="npz", path=str(folder / "digits.npz"))
    return Small(folder, config, data, lambda: np.savez(folder / "digits.npz", **data))


def photos(folder: Path) -> Small:
    """30 cats and 30 dogs to train on, 15 of each for val, of 128 pixels; as the model reads them, of 32."""
    given, data = Path(shared("vision/pets_bias")) / "train", {}
    for name in ("cat", "dog"):
        files = sorted((given / name).iterdir())
        files = [files[i] for i in np.linspace(0, len(files) - 1, 45).astype(int)]
        for split, some in (("train", files[::3] + files[1::3]), ("val", files[2::3])):
            data[split] = folder / split
            (folder / split / name).mkdir(parents=True)
            for file in some:
                shutil.copy(file, folder / split / name)
    config = tiny_config("resnet_basic", steps=100, batch_size=8)
    config.model.image = (32, 32, 3)
    config.data = dict(source="folder", path=str(folder))
    return Small(folder, config, data)


def questions(folder: Path) -> Small:
    """160 questions of six types to train on, 100 for val, as [text, label], under a tokenizer of their words."""
    lines = Path(shared("text/trec6/train.tsv")).read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines[1:261]]
    data = {"train": rows[:160], "val": rows[160:]}
    shutil.copytree(TOKENIZER, folder / "tokenizer")
    marks = (folder / "tokenizer/vocab.txt").read_text().splitlines()[:5]
    spaced = "".join(c if c.isalnum() else f" {c} " for text, _ in rows for c in f"{text.lower()} ")
    words = [*marks, *sorted(set(spaced.split()))]
    (folder / "tokenizer/vocab.txt").write_text("\n".join(words) + "\n")
    (folder / "tokenizer/tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    (folder / "data").mkdir()
    config = tiny_config("bert_pooler", steps=100, batch_size=8)
    config.model.update(tokenizer=str(folder / "tokenizer"), vocab=len(words))
    config.model.update(max_length=64, buckets=(64,), positions=64)
    config.data = dict(source="table", path=str(folder / "data"), quotes=False)

    def write() -> None:
        for split, own in data.items():
            table = "\n".join("\t".join(row) for row in [["text", "label"], *own])
            (folder / f"data/{split}.tsv").write_text(table + "\n")

    return Small(folder, config, data, write)


def patients(folder: Path) -> Small:
    """303 patients of Cleveland, 60 of them for val."""
    with open(shared("tabular/heart/cleveland.csv"), newline="") as file:
        data = {"rows": [*csv.DictReader(file)]}
    config = jaxfer.config.base()
    config.model = dict(name="row_mlp", width=4, mlp_width=6, embedding=2)
    config.data = dict(source="csv_rows", path=str(folder / "heart.csv"), label="disease", val_per_class=50)
    config.data.update(numbers=("age", "trestbps", "chol", "thalach", "oldpeak"), categories=("sex", "cp", "exang"))
    config.update(batch_size=8, steps=100)

    def write() -> None:
        with open(folder / "heart.csv", "w", newline="") as file:
            out = csv.DictWriter(file, [*data["rows"][0]])
            out.writeheader()
            out.writerows(data["rows"])

    return Small(folder, config, data, write)


def heartbeats(folder: Path) -> Small:
    """ECG200: 100 to train on, some of them for val, and 100 for test."""
    data = {name: array.copy() for name, array in np.load(shared("timeseries/ECG200.npz")).items()}
    config = tiny_config("series_cnn", steps=100, batch_size=8)
    config.model.update(length=96, channels=1)
    config.data = dict(source="npz", path=str(folder / "ecg.npz"), val_per_class=15)
    return Small(folder, config, data, lambda: np.savez(folder / "ecg.npz", **data))
