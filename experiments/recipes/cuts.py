"""Writes imbalanced cuts of SST-2 and PneumoniaMNIST, one rare class in ten, in the formats of jaxfer's sources.

python experiments/recipes/cuts.py FOLDER      # reads JAXFER_DATA, writes FOLDER/sst2 and FOLDER/pneumonia.npz

Which examples are kept follows from the sha256 of their content, so a cut is the same everywhere. Validation is taken
before it and is of the data's own shares; the test splits are those of the data, whole.
"""

import csv
import hashlib
import os
import sys
from pathlib import Path

import numpy as np

RARE, COMMON = 60, 540  # training examples
VAL = 100  # of each class, of SST-2


def ordered(contents: list[bytes]) -> list[int]:
    """Places, by the sha256 of what is there; copies of an earlier one are left out."""
    hashes = [hashlib.sha256(content).digest() for content in contents]
    return sorted(
        {digest: place for place, digest in reversed(list(enumerate(hashes)))}.values(), key=hashes.__getitem__
    )


def read(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as rows:
        return list(csv.DictReader(rows, delimiter="\t", quoting=csv.QUOTE_NONE))


def sst2(source: Path, folder: Path) -> None:
    """Reviews that dislike the film are the rare ones."""
    rows, test = read(source / "train.tsv"), read(source / "test.tsv")
    seen = {row["text"] for row in test}
    rows = [rows[place] for place in ordered([row["text"].encode() for row in rows]) if rows[place]["text"] not in seen]
    rare, common = sorted({row["label"] for row in rows})
    splits = {"train": [], "val": [], "test": test}
    for label, count in ((rare, RARE), (common, COMMON)):
        of_label = [row for row in rows if row["label"] == label]
        splits["val"] += of_label[:VAL]
        splits["train"] += of_label[VAL : VAL + count]
    folder.mkdir(parents=True, exist_ok=True)
    for split, chosen in splits.items():
        lines = ["text\tlabel", *(f"{row['text']}\t{row['label']}" for row in chosen)]
        (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def pneumonia(source: Path, file: Path) -> None:
    """Lungs without pneumonia (label 0) are the rare ones; images that also occur in val or test are left out."""
    with np.load(source) as arrays:
        data = {name: arrays[name] for name in arrays.files}
    held = {image.tobytes() for split in ("val", "test") for image in data[f"{split}_image"]}
    images, labels = data["train_image"], data["train_label"].reshape(-1)
    order = [place for place in ordered([image.tobytes() for image in images]) if images[place].tobytes() not in held]
    of_class = ([place for place in order if labels[place] == label] for label in (0, 1))
    chosen = [place for places, count in zip(of_class, (RARE, COMMON), strict=True) for place in places[:count]]
    np.savez_compressed(file, **data | {"train_image": images[chosen], "train_label": data["train_label"][chosen]})


if __name__ == "__main__":
    data, out = Path(os.environ["JAXFER_DATA"]), Path(sys.argv[1])
    sst2(data / "text/sst2", out / "sst2")
    pneumonia(data / "vision/pneumonia_mnist.npz", out / "pneumonia.npz")
