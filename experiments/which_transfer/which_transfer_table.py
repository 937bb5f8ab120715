"""The tables of README.md, of what `jaxfer sweep` and `jaxfer rank --layers` left in a folder.

    python experiments/which_transfer/which_transfer_table.py runs/which/xrays runs/which/questions runs/which/voices

Numbers go into `experiments/which_transfer/SET/`: `sweep.csv` is the sweep's table, `ranking.csv` has a line for each
candidate, `skill.csv` one for each score. A folder without runs is shown by what is kept there.
"""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxfer.evals.intervals import mean_interval

KEPT = Path(__file__).parent
SHOWN = ("logme", "knn", "ridge")
UNITS = ("best_unit", "unit", "units", "best_unit_logme")


def kept(folder: Path) -> Path:
    """The folder of a set's numbers, with those of new runs, if there are any."""
    own = KEPT / folder.name
    own.mkdir(exist_ok=True)
    if (folder / "table.csv").exists():
        shutil.copyfile(folder / "table.csv", own / "sweep.csv")
    if (folder / "rank.json").exists():
        ranking = json.loads((folder / "rank.json").read_text())
        _write(own / "ranking.csv", map(_candidate, ranking["candidates"]))
        _write(own / "skill.csv", ({"score": name, **told} for name, told in ranking["skill"].items()))
    return own


def _candidate(of: Mapping[str, Any]) -> dict[str, Any]:
    layers = {name: told["value"] for name, told in (of["layers"] or {}).items() if told["value"] is not None}
    units = [name for name in layers if name != "features"]
    best = max(layers, key=layers.__getitem__, default="")
    where = units.index(best) + 1 if best in units else len(units)
    reached = of["reached"] or {"value": None}
    return {
        "candidate": of["init"].rpartition(":")[2],
        **{name: told["value"] for name, told in of["scores"].items()},
        **dict(zip(UNITS, (best, where, len(units), layers.get(best)), strict=True)),
        "seconds": of["seconds"],
        "reached": reached["value"],
    }


def _write(file: Path, lines: Iterator[Mapping[str, Any]]) -> None:
    rows = [
        {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in line.items()} for line in lines
    ]
    with open(file, "w", newline="") as out:
        writer = csv.DictWriter(out, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read(file: Path) -> list[dict[str, str]]:
    with open(file, newline="") as lines:
        return list(csv.DictReader(lines))


def table(head: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1) -> str:
    """A Markdown table whose first columns are texts, and others numbers."""
    rule = ["---"] * texts + ["---:"] * (len(head) - texts)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows))


def ranking(lines: Sequence[Mapping[str, str]]) -> str:
    """By LogME, the best first; units are counted from the input."""

    def number(text: str) -> str:
        return f"{float(text):.3f}" if text else ""

    rows = [
        (
            f"`{line['candidate']}`",
            *(number(line[name]) for name in SHOWN),
            f"`{line['best_unit']}`, {line['unit']} of {line['units']}",
            number(line["best_unit_logme"]),
            number(line["reached"]),
        )
        for line in lines
    ]
    head = ("candidate", "LogME", "kNN", "ridge", "its best unit", "LogME there", "best run, on val")
    return table(head, rows)


def sweep(lines: Sequence[Mapping[str, str]]) -> str:
    """A line for each network: mean and half-width over seeds by each method, and their paired difference."""
    scores: dict[str, dict[str, list[float]]] = {}
    for line in lines:
        network, _, method = line["method"].partition(" ")
        scores.setdefault(network, {})[method] = [float(x) for x in line["scores"].split()]
    rows = []
    for network, of in scores.items():
        probe, full = of["probe"], of["full"]
        by, half = mean_interval([b - a for a, b in zip(probe, full, strict=True)])
        told = ("{:.3f} ± {:.3f}".format(*mean_interval(values)) for values in (probe, full))
        rows.append((f"`{network}`", *told, f"{by:+.3f} [{by - half:+.3f}, {by + half:+.3f}]"))
    return table(("network", "probe", "fine-tuned", "fine-tuned - probe"), rows)


def skill(lines: Sequence[Mapping[str, str]]) -> str:
    """Of each score that orders candidates which there are runs of."""
    rows = [
        (
            f"`{line['score']}`",
            f"{float(line['tau']):+.2f}",
            f"[{float(line['low']):+.2f}, {float(line['high']):+.2f}]" if line["low"] else "",
            f"{float(line['chance']):.2f}",
        )
        for line in lines
        if line["tau"]
    ]
    return table(("score", "weighted tau", "95 % interval", "chance of as much"), rows)


def tables(own: Path) -> Iterator[str]:
    """Those of a set's numbers; two candidates have no skill to speak of."""
    for make in (ranking, sweep, skill):
        if (file := own / f"{make.__name__}.csv").exists():
            lines = read(file)
            if make is not skill or max(int(line["candidates"]) for line in lines) > 2:
                yield make(lines)


if __name__ == "__main__":
    for folder in map(Path, sys.argv[1:]):
        for text in tables(kept(folder)):
            print(f"{folder.name}\n\n{text}\n")
