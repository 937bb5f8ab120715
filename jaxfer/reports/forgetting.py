"""What runs leave of the task before: its metric on val, and how much of it the run lost."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from jaxfer import files
from jaxfer.errors import InputError
from jaxfer.pretrained import starting
from jaxfer.reports.numbers import known
from jaxfer.reports.tables import Cell, score
from jaxfer.runs.folder import read_result

STREAMS = ("memory", "former")  # of the task before
HEADERS = ("earlier task", "forgetting")
ABOUT = (
    "Earlier task: the metric on its val split, after the run; forgetting: what the run it starts from had reached "
    "there, minus that."
)


def measured(
    results: Sequence[Mapping[str, Any]], folders: Sequence[epath.Path], metric: str
) -> tuple[float | None, float | None]:
    """(the earlier task's metric after the runs, what is forgotten of it): means over the runs; None: not known.

    Forgetting is known where the run that was started from is still there, and a finished one.
    """
    left, lost = [], []
    for result, folder in zip(results, folders, strict=True):
        val = result["metrics"].get("val", {})
        after = next((val[name] for stream in STREAMS if known(val.get(name := f"{stream}/{metric}"))), None)
        if after is None:
            continue
        left.append(after)
        before = _before(folder, metric)
        lost += [] if before is None else [before - after]
    whole = bool(lost) and len(lost) == len(left)
    return (statistics.fmean(left) if left else None), (statistics.fmean(lost) if whole else None)


def cells(left: float | None, lost: float | None) -> list[Cell]:
    """Of the columns HEADERS."""
    return [score(left), score(lost)]


def _before(folder: epath.Path, metric: str) -> float | None:
    init = files.read_json(folder / "config.json").get("init", "")
    if starting.is_foreign(init) or ":" not in init:
        return None
    try:
        found = read_result(starting.source_folder(init, folder))["metrics"].get("val", {}).get(metric)
    except (InputError, OSError):
        return None
    return found if known(found) else None
