"""What a comparison's folder says: its arms with their verdicts, scores, costs and runs; read from its JSON files."""

from __future__ import annotations

import dataclasses
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from etils import epath

from jaxfer import files
from jaxfer.errors import InputError
from jaxfer.reports.cells import cells
from jaxfer.reports.numbers import known
from jaxfer.runs import history, seal
from jaxfer.runs.folder import read_result

FILE, SCRATCH = "comparison.json", "scratch"
_NAME = re.compile(r"(?P<arm>.+?) (?:(?P<labels>\d+) labels )?trial (?P<trial>\d+) seed (?P<seed>\d+)")


class _Verdict(TypedDict):
    outcome: str
    effect: float
    interval95: tuple[float | None, ...]
    sentence: str
    p: float
    p_holm: float | None


class _Finding(TypedDict):
    labels: int
    arm: str
    val: float | None
    test: tuple[float | None, ...]
    default: tuple[float | None, ...]
    seconds: float | None
    params_trainable: int
    verdict: _Verdict | None


class _Baseline(TypedDict):
    labels: int
    name: str
    test: tuple[float, ...]


class _Command(TypedDict):
    config: str
    overrides: dict[str, Any]


class _Written(TypedDict):
    metric: str
    findings: tuple[_Finding, ...]
    baselines: tuple[_Baseline, ...]


class _Comparison(_Written, total=False):
    counted: str
    command: _Command


class _Choice(TypedDict):
    labels: int
    arm: str
    trial: int | None


class _Selection(TypedDict):
    rule: str
    selected: tuple[_Choice, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arm:
    """One arm at one label count.

    Attributes:
      labels: labels a class; 0: all.
      name: its name.
      found: its entry of comparison.json.
      folders: its tuned runs by seed, those that are still there.
      defaults: likewise those at the default setting; the same where that is selected.
      results: their result.json.
      series: number of its colour.
    """

    labels: int
    name: str
    found: Mapping[str, Any]
    folders: tuple[epath.Path, ...]
    defaults: tuple[epath.Path, ...]
    results: tuple[Mapping[str, Any], ...]
    series: int

    @property
    def test(self) -> list[float]:
        """Test scores by seed, without those of diverged runs."""
        return [v for v in self.found["test"] if known(v)]

    @property
    def mean(self) -> float:
        """Mean test score; NaN where a run diverged."""
        return statistics.fmean(self.test) if self.test and len(self.test) == len(self.found["test"]) else float("nan")

    def cost(self, name: str) -> float | None:
        """Median of a cost over the seeds; None where no run states it."""
        return self._median([r["cost"].get(name) for r in self.results])

    def val(self, name: str) -> float | None:
        """Median of a metric on val over the seeds."""
        return self._median([r["metrics"].get("val", {}).get(name) for r in self.results])

    def _median(self, values: Sequence[Any]) -> float | None:
        found = [value for value in values if known(value)]
        return statistics.median(found) if found else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compared:
    """A finished comparison.

    Attributes:
      folder: where it lies.
      metric: by which arms are compared.
      maximize: whether more of it is better.
      arms: of all label counts, scratch first.
      baselines: the simple ones, as in comparison.json.
      selection: selection.json.
      protocol: protocol.json.
      command: the config and the overrides that it was made with; None of an older one.
      counted: what labels count, `a class` or `in all`.
      opened: when the test split was opened, as `seal.opened` has it.
    """

    folder: epath.Path
    metric: str
    maximize: bool
    arms: tuple[Arm, ...]
    baselines: tuple[Mapping[str, Any], ...]
    selection: Mapping[str, Any]
    protocol: Mapping[str, Any]
    command: Mapping[str, Any] | None
    counted: str
    opened: str

    @property
    def labels(self) -> list[int]:
        """The label counts, increasing."""
        return list(dict.fromkeys(arm.labels for arm in self.arms))

    def at(self, labels: int) -> list[Arm]:
        """The arms at a label count."""
        return [arm for arm in self.arms if arm.labels == labels]

    def best(self, labels: int) -> Arm:
        """The transfer that is best on val; scratch where all diverged."""
        arms = [arm for arm in self.at(labels) if arm.name != SCRATCH and known(arm.found["val"])]
        sign = 1 if self.maximize else -1
        return max(arms, key=lambda arm: sign * arm.found["val"], default=self.at(labels)[0])


def read(folder: epath.Path) -> Compared:
    """Reads a comparison.

    Raises:
      InputError: it is not finished, or one of its files can't be read.
    """
    if not (folder / FILE).exists():
        raise InputError(f"the comparison in {folder} is not finished; run the same `jaxfer compare` command again")
    content = files.read_json(folder / FILE, _Comparison)
    selection = files.read_json(folder / seal.SELECTION, _Selection)
    if not content["findings"]:
        raise InputError(f"{folder / FILE}: expected findings, found none; {files.FIX}")
    runs = trial_runs(folder)
    trials = {(choice["labels"], choice["arm"]): choice["trial"] for choice in selection["selected"]}
    names = list(dict.fromkeys(f["arm"] for f in content["findings"]))
    series = {name: i for i, name in enumerate([SCRATCH, *(n for n in names if n != SCRATCH)])}
    arms = []
    for found in content["findings"]:
        key = found["labels"], found["arm"]
        folders, defaults = (
            tuple(f for f in runs.get((*key, trial), ()) if (f / "result.json").exists())
            for trial in (trials.get(key) or 0, 0)
        )
        results, colour = tuple(map(read_result, folders)), series[key[1]]
        own = dict(labels=key[0], name=key[1], found=found, folders=folders, defaults=defaults)
        arms.append(Arm(**own, results=results, series=colour))
    maximize = True
    if some := next((f for arm in arms for f in arm.folders), None):
        by = history.monitor(files.read_json(some / "config.json"))
        maximize = by is None or by.maximize
    return Compared(
        folder=folder,
        metric=content["metric"],
        maximize=maximize,
        arms=tuple(arms),
        baselines=tuple(content["baselines"]),
        selection=selection,
        protocol=files.read_json(folder / seal.PROTOCOL),
        command=content.get("command"),
        counted=content.get("counted", "a class"),
        opened=seal.opened(folder),
    )


def trial_runs(folder: epath.Path) -> dict[tuple[int, str, int], list[epath.Path]]:
    """{(labels, arm, trial): run folders by seed} of cells.json; {} without one."""
    found: dict[tuple[int, str, int], list[tuple[int, epath.Path]]] = {}
    for cell in cells(folder):
        if match := _NAME.fullmatch(cell["name"]):
            key = int(match["labels"] or 0), match["arm"], int(match["trial"])
            found.setdefault(key, []).append((int(match["seed"]), folder / cell["folder"]))
    return {key: [path for _, path in sorted(paths, key=lambda p: p[0])] for key, paths in found.items()}
