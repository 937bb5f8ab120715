"""A table of runs: which columns, which rows, in which order; as text, CSV or JSON.

A field of a run is a field of its config (`lr`, `model.width`, `stage.full.lr`), a score (`val.accuracy`), a number of
its cost (`seconds`), or `name`, `folder`, `state`, `step`, `steps`. The end of a name will do where it is unique:
`accuracy` for `val.accuracy`.
"""

from __future__ import annotations

import csv
import io
import json
import operator
import re
from collections.abc import Iterable, Sequence
from typing import Any

from jaxfer import terminal
from jaxfer.errors import InputError, nearest
from jaxfer.runs.survey import FINISHED, UNFINISHED, Run
from jaxfer.terminal import FILE, NAME, NUMBER, Column, Page

COST = ("seconds", "params_trainable")
# A field that only some runs have is no difference where these tell why: another model has other options.
CHOOSERS = (
    (re.compile(r"model\..+"), "model.name"),
    (re.compile(r"task\..+"), "task.name"),
    (re.compile(r"data\..+"), "data.source"),
    (re.compile(r"(options|rates)\..+"), "method"),
    (re.compile(r"stage\.(\w+)\.(?:options|rates)\..+"), r"stage.\1.method"),
    (re.compile(r"stage\..+"), "stages"),
    (re.compile(r"[^.]+"), "stages"),
)
COMPARISONS = {
    "<=": operator.le,
    ">=": operator.ge,
    "!=": operator.ne,
    "==": operator.eq,
    "=": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}
_FILTER = re.compile(r"\s*([^<>=!\s]+)\s*(<=|>=|!=|==|=|<|>)\s*(.*?)\s*")


def table(
    runs: Sequence[Run], *, columns: Sequence[str] = (), filters: Sequence[str] = (), sort: str = ""
) -> tuple[list[str], list[dict[str, Any]]]:
    """(columns, rows): the rows that pass every filter, each {field: value} with all fields of its run.

    Args:
      runs: as `survey` returns them.
      columns: fields to show after `name`; default: state, what differs between the configs, scores, cost.
      filters: comparisons such as `lr>0.01`, `method=lora`, `state!=finished`. A run without the field passes none.
      sort: a field, smallest first; `-FIELD` largest first; runs without it come last. Default: by name.

    Raises:
      InputError: no run has such a field, a filter that is no comparison, or one of a text with a number.
    """
    known = list(dict.fromkeys(name for run in runs for name in run.fields()))
    for each in filters:
        runs = _filtered(runs, each, known)
    rows = [(run, run.fields()) for run in runs]
    if sort:
        field, down = _field(sort.removeprefix("-"), known, f"--sort={sort}"), sort.startswith("-")
        having = [row for row in rows if row[1].get(field) is not None]
        having.sort(key=lambda row: _order(row[1][field]), reverse=down)
        rows = having + [row for row in rows if row[1].get(field) is None]
    chosen = [_field(name, known, "--columns") for name in columns] or default_columns([run for run, _ in rows])
    return list(dict.fromkeys(("name", *chosen))), [fields for _, fields in rows]


def default_columns(runs: Sequence[Run]) -> list[str]:
    """The state, the config's fields that differ, the monitors' scores on val and test, and the cost."""
    watched = {f"{split}.{run.monitor}" for run in runs for split in ("val", "test")}
    scores = [name for name in _names(run.scores for run in runs) if name in watched or not _monitored(runs)]
    costs = [name for name in COST if any(name in run.cost for run in runs)]
    return ["state", *differing(runs), *scores, *costs]


def differing(runs: Sequence[Run]) -> list[str]:
    """The fields in which the configs differ, in the order of the config.

    One that some runs lack counts unless what chooses it differs too: `model.patch` where `model.name` is another.
    """
    found = []
    for name in _names(run.config for run in runs):
        values = {_plain(run.config[name]) for run in runs if name in run.config}
        if len(values) > 1 or _lacking(name, runs):
            found.append(name)
    return found


def _lacking(name: str, runs: Sequence[Run]) -> bool:
    """Whether of runs that are alike in what chooses the field some have it and some don't."""
    chooser = next((pattern.sub(by, name) for pattern, by in CHOOSERS if pattern.fullmatch(name)), "")
    has: dict[str, set[bool]] = {}
    for run in runs:
        if run.config:  # a damaged run says nothing
            has.setdefault(_plain(run.config.get(chooser)), set()).add(name in run.config)
    return any(len(either) > 1 for either in has.values())


def _monitored(runs: Iterable[Run]) -> bool:
    return any(run.monitor for run in runs)


def _names(sections: Iterable[Iterable[str]]) -> list[str]:
    return list(dict.fromkeys(name for section in sections for name in section))


def _field(name: str, known: Sequence[str], where: str) -> str:
    """The field of this name, or the only one that ends with it."""
    if name in known:
        return name
    ending = [field for field in known if field.endswith(f".{name}")]
    if len(ending) > 1:
        raise InputError(f"{where}: {name!r} could be {', '.join(sorted(ending)[:6])}; write one of them")
    if not ending:
        raise InputError(f"{where}: no run has a field {name!r}{nearest(name, known)}")
    return ending[0]


def _filtered(runs: Sequence[Run], text: str, known: Sequence[str]) -> list[Run]:
    match = _FILTER.fullmatch(text)
    if not match:
        raise InputError(f"--filter={text!r}: expected FIELD, one of {' '.join(COMPARISONS)}, and a value: 'lr>0.01'")
    name, sign, value = match.groups()
    field = _field(name, known, f"--filter={text!r}")
    having = [(run, run.fields()[field]) for run in runs if run.fields().get(field) is not None]
    number = all(_number(found) for _, found in having)
    if not number and sign not in ("=", "==", "!="):
        example = next(found for _, found in having if not _number(found))
        raise InputError(f"--filter={text!r}: {field} is no number ({_plain(example)!r}); compare it by = or !=")
    if number:
        try:
            value = float(value)
        except ValueError:
            raise InputError(f"--filter={text!r}: expected a number to compare {field} with, found {value!r}") from None
    compare = COMPARISONS[sign]
    return [run for run, found in having if compare(found if number else _plain(found), value)]


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _order(value: Any) -> tuple[bool, float, str]:
    """Numbers first, by size, then texts."""
    return (False, float(value), "") if _number(value) else (True, 0.0, _plain(value))


def _plain(value: Any) -> str:
    """A value as one would write it in an override: `0.001`, `true`, `stem/.*,block_0/.*`."""
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)):
        return ",".join(":".join(map(_plain, v)) if isinstance(v, (list, tuple)) else _plain(v) for v in value)
    return f"{value:.6g}" if isinstance(value, float) else json.dumps(value)


def as_text(columns: Sequence[str], rows: Sequence[dict[str, Any]], page: Page = FILE) -> str:
    """The table on a page; an unfinished run's state says its step."""
    kinds = [NAME if i == 0 else NUMBER if _numeric(name, rows) else terminal.TEXT for i, name in enumerate(columns)]
    cells = [[shown(name, row) for name in columns] for row in rows]
    return terminal.table([Column(*each) for each in zip(columns, kinds, strict=True)], cells, page)


def _numeric(name: str, rows: Sequence[dict[str, Any]]) -> bool:
    return all(_number(row[name]) for row in rows if row.get(name) is not None)


def shown(name: str, row: dict[str, Any]) -> str:
    """A field of a row as a table shows it; empty where the run has none."""
    value = row.get(name)
    if value is None:
        return ""
    if name == "state" and value != FINISHED:
        at = f"step {row['step']} of {row['steps']}"
        return at if value == UNFINISHED else f"{value} at {at}" if row["steps"] else value
    if name.partition(".")[0] in ("val", "test") and _number(value):
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) and name.startswith("params_") else _plain(value)


def as_csv(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> str:
    """The table as CSV, numbers in full; an absent field is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow(["" if v is None else repr(v) if _number(v) else _plain(v) for v in map(row.get, columns)])
    return text.getvalue()


def as_json(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> str:
    """A list of objects with these columns; an absent field is null."""
    return json.dumps([{name: row.get(name) for name in columns} for row in rows], indent=1) + "\n"
