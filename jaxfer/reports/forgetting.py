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

STREAMS = ("memory", "former")  # of the task before, where its own data say nothing
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
        val, source = result["metrics"].get("val", {}), _source(folder)
        streams = (*_of_its_task(result, source), *STREAMS)
        after = next((val[name] for stream in streams if known(val.get(name := f"{stream}/{metric}"))), None)
        if after is None:
            continue
        left.append(after)
        before = source["metrics"].get("val", {}).get(metric) if source else None
        lost += [before - after] if known(before) else []
    whole = bool(lost) and len(lost) == len(left)
    return (statistics.fmean(left) if left else None), (statistics.fmean(lost) if whole else None)


def cells(left: float | None, lost: float | None) -> list[Cell]:
    """Of the columns HEADERS."""
    return [score(left), score(lost)]


def _source(folder: epath.Path) -> Mapping[str, Any] | None:
    """The result of the run that this one started from; None where it is no run, or gone."""
    init = files.read_json(folder / "config.json").get("init", "")
    if starting.is_foreign(init) or ":" not in init:
        return None
    try:
        return read_result(starting.source_folder(init, folder))
    except (InputError, OSError):
        return None


def _of_its_task(result: Mapping[str, Any], source: Mapping[str, Any] | None) -> list[str]:
    """Streams of the data and classes that the source was trained on."""
    if source is None:
        return []
    wanted, read = (source["lineage"]["data_sha256"], source["classes"]), result["lineage"].get("streams", {})
    return [name for name, told in result.get("streams", {}).items() if (read.get(name), told["classes"]) == wanted]
