"""Tables of the sweeps of transfers.py: test accuracy of every arm, and over plain fine-tuning, paired by seed.

    python experiments/methods/transfers_table.py runs/methods/transfers/*     # reads what transfers_data.py wrote

Robust arms, plain fine-tuning, the probe and L2-SP are also read on corrupted test inputs at severity 3, the mean over
noise, blur, contrast and JPEG of images and of typos of texts, and for what is left of the source: of photos and
digits, the nearest neighbours of PACS' photos and of clothes (leave one out, cosine, 5 of them); of texts, Spearman's
correlation of STS-B, by the cosine of both sentences. An ensemble is of the three runs that soups are made of, whose
features, each of length one, stand side by side for what it retains. Each run's numbers are kept in
`experiments/methods/transfers/SET.csv`, and are not computed again.
"""

import csv
import functools
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr
from transfers import MERGED, PLAIN, SEEDS, TUNED

import jaxfer
from jaxfer.evals.intervals import mean_interval
from jaxfer.training.robustness import mean as mean_of

KEPT, DATA = Path(__file__).with_name("transfers"), Path("runs/methods/data")
TOGETHER = ("slow", PLAIN, "fast")  # the runs of an ensemble
READ = (PLAIN, "probe", "l2sp", "ema", "swa", "swa, norms counted", "sam", "asam", *MERGED.values())
READ += tuple(arm.replace("lp-ft", name) for arm in TUNED for name in ("lp-ft", "wise-ft"))
READ += ("ensemble, probabilities", "ensemble, votes")
PHOTOS = ("gaussian_noise", "defocus_blur", "contrast", "jpeg_compression")
CORRUPTIONS = {"flowers5": PHOTOS, "mnist": PHOTOS, "sst2": ("typos",), "trec6": ("typos",)}
SOURCES = {
    "flowers5": "vision/pacs/photo",
    "mnist": "vision/fashion_mnist.npz",
}  # texts': as transfers_data.py wrote it
FIELDS = ("arm", "seed", "accuracy", "corrupted", "retained")
NEIGHBOURS = 5


def corrupted(name: str, run: Path) -> float:
    """Mean accuracy over the corruptions of the test split."""
    return mean_of(jaxfer.robustness(run, split="test", corruptions=CORRUPTIONS[name]), "accuracy")


@functools.cache
def retained(name: str, *runs: Path) -> float:
    """How much of the source the features still tell, those of several runs side by side."""
    path = SOURCES.get(name, str((DATA / "stsb.tsv").resolve()))
    fields = {"data.path": path, "data.labels_per_class": 0}
    columns = []
    for run in runs:
        parts = [jaxfer.features(run, split=split, overrides=fields, quiet=True).arrays() for split in ("train", "val")]
        features, labels, row = (np.concatenate([part[key] for part in parts]) for key in ("features", "label", "row"))
        order = np.argsort(row)
        columns.append(features[order] / np.linalg.norm(features[order], axis=1, keepdims=True))
    features = np.concatenate(columns, 1) / np.sqrt(len(runs))
    if name not in SOURCES:
        first, second = np.split(features, 2)
        return float(spearmanr((first * second).sum(1), scores()).statistic)
    alike, labels = features @ features.T, labels[order]
    np.fill_diagonal(alike, -np.inf)
    votes = labels[np.argsort(-alike, axis=1)[:, :NEIGHBOURS]]
    chosen = np.array([np.bincount(of).argmax() for of in votes])
    return float((chosen == labels).mean())


def scores() -> list[float]:
    """Of STS-B's test pairs."""
    with open(Path(os.environ["JAXFER_DATA"]) / "text/stsb/test.tsv", newline="", encoding="utf-8") as file:
        return [float(row["score"]) for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]


def results(name: str, folder: Path) -> Iterator[tuple[str, str, Callable[[], dict[str, float]]]]:
    """(arm, seed, what measures it) of each run of an arm that has ended, then of ensembles."""
    ended = {
        cell["name"]: cell
        for cell in json.loads((folder / "cells.json").read_text())
        if (folder / cell["folder"] / "result.json").exists()
    }

    def of_run(arm: str, run: Path) -> dict[str, float]:
        found = {"accuracy": json.loads((run / "result.json").read_text())["metrics"]["test"]["accuracy"]}
        return {**found, "corrupted": corrupted(name, run), "retained": retained(name, run)} if arm in READ else found

    def together(runs: list[Path], combine: str) -> dict[str, float]:
        def accuracy(overrides: dict[str, str]) -> float:
            found = jaxfer.ensemble(runs, split="test", combine=combine, overrides=overrides)
            return found["ensemble"]["accuracy"]

        worse = [accuracy({"data.corrupt": kind}) for kind in CORRUPTIONS[name]]
        return {"accuracy": accuracy({}), "corrupted": float(np.mean(worse)), "retained": retained(name, *runs)}

    for cell in ended.values():
        if arm := cell["group"]:
            run = folder / cell["folder"]
            yield arm, str(cell["overrides"]["seed"]), functools.partial(of_run, arm, run)
    for seed in map(str, range(SEEDS)):
        if all(f"{each}{seed}" in ended for each in TOGETHER):
            runs = [folder / ended[f"{each}{seed}"]["folder"] for each in TOGETHER]
            for combine in ("probabilities", "votes"):
                yield f"ensemble, {combine}", seed, functools.partial(together, runs, combine)


def lines(name: str, folder: Path) -> list[dict[str, str]]:
    """A line for each run of an arm, written as they come; those that are written already aren't measured again."""
    kept, file = {}, KEPT / f"{name}.csv"
    if file.exists():
        with open(file, newline="") as read:
            kept = {(line["arm"], line["seed"]): line for line in csv.DictReader(read)}
    for arm, seed, measure in results(name, folder) if (folder / "cells.json").exists() else ():
        if kept.get((arm, seed), {}).get("retained" if arm in READ else "accuracy"):
            continue
        found = {field: f"{value:.6f}" for field, value in measure().items()}
        kept[arm, seed] = {"arm": arm, "seed": seed, "corrupted": "", "retained": "", **found}
        KEPT.mkdir(exist_ok=True)
        with open(file, "w", newline="") as out:
            writer = csv.DictWriter(out, FIELDS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(kept.values())
    return list(kept.values())


def table(name: str, found: list[dict[str, str]]) -> str:
    """One line an arm, in the sweep's order."""
    head = [name, *(x for field in ("accuracy", "corrupted", "source retained") for x in (field, f"over {PLAIN}"))]
    rows = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    by_arm: dict[str, dict[str, dict[str, str]]] = {}
    for line in found:
        by_arm.setdefault(line["arm"], {})[line["seed"]] = line
    plain = by_arm[PLAIN]

    def mean(each: dict[str, dict[str, str]], field: str) -> str:
        values = [float(line[field]) for line in each.values() if line[field]]
        return "{:.3f} ± {:.3f}".format(*mean_interval(values)) if values else ""

    def over(each: dict[str, dict[str, str]], field: str) -> str:
        pairs = [(line[field], plain[seed][field]) for seed, line in each.items() if seed in plain and line[field]]
        if each is plain or not pairs:
            return ""
        by, half = mean_interval([float(a) - float(b) for a, b in pairs])
        return f"{by:+.3f} [{by - half:+.3f}, {by + half:+.3f}]"

    for arm, each in by_arm.items():
        cells = [f(each, field) for field in ("accuracy", "corrupted", "retained") for f in (mean, over)]
        rows.append("| " + " | ".join((f"`{arm}`", *cells)) + " |")
    return "\n".join(rows)


if __name__ == "__main__":
    for folder in map(Path, sys.argv[1:]):
        if found := lines(folder.name, folder):
            print(table(folder.name, found), end="\n\n")
