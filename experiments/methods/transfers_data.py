"""The test splits of transfers.py, corrupted, and what its networks knew before: written to runs/methods/data.

    python experiments/methods/transfers_data.py     # reads JAXFER_DATA, half a minute

`flowers5/{noise,blur,contrast,jpeg}`: severity 3 of four corruptions of ImageNet-C (Hendrycks and Dietterich, 2019,
arXiv:1903.12261), of the photos as they are; the blur is Gaussian. `sst2` and `trec6`, `typos`: in every fifth word of
four letters and more two neighbours inside it change places. Nothing is drawn anew: a file's name, or a line's number,
seeds it. `stsb.tsv`: both columns of the sentences of STS-B's test, one below the other.
"""

import csv
import io
import os
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

OUT, DATA = Path("runs/methods/data"), Path(os.environ["JAXFER_DATA"])


def noise(image, rng):
    values = np.asarray(image, np.float64) / 255
    return Image.fromarray((np.clip(values + rng.normal(scale=0.18, size=values.shape), 0, 1) * 255).astype(np.uint8))


def blur(image, rng):
    return image.filter(ImageFilter.GaussianBlur(3 * image.width / 224))  # ImageNet-C's radius is of 224 pixels


def contrast(image, rng):
    values = np.asarray(image, np.float64) / 255
    mean = values.mean((0, 1), keepdims=True)
    return Image.fromarray((np.clip((values - mean) * 0.2 + mean, 0, 1) * 255).astype(np.uint8))


def jpeg(image, rng):
    held = io.BytesIO()
    image.save(held, "JPEG", quality=15)
    return Image.open(held).convert("RGB")


def typos(text, rng):
    words = text.split(" ")
    for i, word in enumerate(words):
        if len(word) >= 4 and rng.random() < 0.2:
            at = int(rng.integers(1, len(word) - 2))
            words[i] = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return " ".join(words)


def photos():
    for change in (noise, blur, contrast, jpeg):
        for file in sorted((DATA / "vision/flowers5").glob("*/*/*.jpg")):
            split, kind = file.parts[-3:-1]
            out = OUT / "flowers5" / change.__name__ / split / kind / f"{file.stem}.png"
            out.parent.mkdir(parents=True, exist_ok=True)
            if split == "test":
                rng = np.random.default_rng(zlib.crc32(file.name.encode()))
                change(Image.open(file).convert("RGB"), rng).save(out)
            elif len([*out.parent.iterdir()]) < 4:  # a set has a training split to draw val from; none is read
                Image.open(file).save(out)


def lines(file):
    with open(file, newline="", encoding="utf-8") as read:
        return list(csv.DictReader(read, delimiter="\t", quoting=csv.QUOTE_NONE))


def write(file, header, rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join("\t".join(row) for row in (header, *rows)) + "\n", encoding="utf-8")


def texts():
    for name in ("sst2", "trec6"):
        train, test = (lines(DATA / f"text/{name}/{split}.tsv") for split in ("train", "test"))
        told = [(typos(row["text"], np.random.default_rng(i)), row["label"]) for i, row in enumerate(test)]
        write(OUT / name / "typos/test.tsv", ("text", "label"), told)
        write(OUT / name / "typos/train.tsv", ("text", "label"), [(row["text"], row["label"]) for row in train])
    pairs = lines(DATA / "text/stsb/test.tsv")
    write(OUT / "stsb.tsv", ("text", "label"), [(row[c], c) for c in ("text", "text_pair") for row in pairs])


if __name__ == "__main__":
    photos()
    texts()
