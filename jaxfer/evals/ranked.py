"""A ranking of candidates: its numbers, as tables and as rank.json."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from jaxfer import files, terminal
from jaxfer.errors import InputError
from jaxfer.evals.score_skill import WIDE, Reached, Skill
from jaxfer.training import lineage

FILE = "rank.json"
# {heuristic: its title}: what a score has to beat.
BASELINES = {
    "parameters": "parameters",
    "depth": "depth",
    "source_accuracy": "source accuracy",
    "source_examples": "source examples",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scored:
    """A score of one candidate, or of one of its layers.

    Attributes:
      value: None where it has none.
      seconds: of the score alone.
      why: why it has no value.
    """

    value: float | None
    seconds: float = 0.0
    why: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """One row of the ranking.

    Attributes:
      init: as it was given.
      model: its family.
      reads: `features`, or the unit whose mean stands for them (`candidates.Frozen`).
      width: of a vector.
      seconds: to load it and to compute its features, or to read them.
      computed: examples whose features were not stored.
      scores: {score: its value}.
      heuristics: {name of BASELINES: value or None}.
      layers: {unit: the score that ranks}, in order; {} where none were asked for.
      reached: None where there is no run from it.
      sha256: of its weights.
      notes: what was assumed of it.
    """

    init: str
    model: str
    reads: str
    width: int
    seconds: float
    computed: int
    scores: Mapping[str, Scored]
    heuristics: Mapping[str, float | None]
    layers: Mapping[str, Scored]
    reached: Reached | None
    sha256: str
    notes: tuple[str, ...]

    @property
    def best_layer(self) -> str | None:
        """The unit of the highest score; of equal ones the first."""
        known = {unit: found.value for unit, found in self.layers.items() if found.value is not None}
        return max(known, key=known.get, default=None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ranking:
    """What `rank` found.

    Attributes:
      config: its name; empty for one that is no file.
      by: the score that ranks.
      examples: of the training split.
      classes: of the data.
      seed: of the scores that draw.
      candidates: the best first; those without the score last.
      skill: {score or baseline: how it orders them}; {} without runs.
      data_sha256: of the data.
      command: what was asked for, as arguments of `rank`; {} of a config that is no file.
    """

    config: str
    by: str
    examples: int
    classes: int
    seed: int
    candidates: tuple[Candidate, ...]
    skill: Mapping[str, Skill]
    data_sha256: str
    command: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The content of rank.json."""
        return {**dataclasses.asdict(self), "versions": lineage.versions()}

    def write(self, folder: str | epath.Path) -> epath.Path:
        """Writes rank.json into a folder, which is made where there is none; returns the file's path."""
        folder = writable(folder)
        folder.mkdir(parents=True, exist_ok=True)
        files.write_text(folder / FILE, json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n")
        return folder / FILE

    def text(self, page: terminal.Page = terminal.FILE) -> str:
        """Tables of scores beside heuristics, seconds, layers and skill; then why scores are missing, and notes."""
        told = f"{self.examples:,} training examples of {self.classes} classes, best {self.by} first"
        parts = [f"{told}\n{self._scores(page)}", f"seconds\n{self._seconds(page)}"]
        if any(candidate.layers for candidate in self.candidates):
            parts.append(f"{self.by} of each unit, its mean over tokens or places\n{self._layers(page)}")
        if self.skill:
            told = f"weighted tau between a score and what the best validated runs reached; {WIDE}"
            parts.append(f"{terminal.wrapped(told, page.width)}\n{self._skill(page)}")
        lines = [*self._missing(), *dict.fromkeys(f"note: {note}" for c in self.candidates for note in c.notes)]
        last = ["\n".join(terminal.wrapped(line, page.width) for line in lines)] if lines else []
        return "\n\n".join([*parts, *last])

    @property
    def _names(self) -> tuple[str, ...]:
        return tuple(self.candidates[0].scores)

    def _scores(self, page: terminal.Page) -> str:
        metric = next((f"val {c.reached.metric}" for c in self.candidates if c.reached), None)
        rows = []
        for c in self.candidates:
            row = [c.init, *(_number(c.scores[name].value) for name in self._names)]
            row += [_number(c.heuristics[name]) for name in BASELINES]
            rows.append(row + [_number(c.reached and c.reached.value)] * (metric is not None))
        return _table(["candidate", *self._names, *BASELINES.values(), *([metric] if metric else [])], rows, page)

    def _seconds(self, page: terminal.Page) -> str:
        rows = []
        for c in self.candidates:
            spent = f"{c.seconds:.2f}{'' if c.computed else ' (stored)'}"
            rows.append([c.init, spent, *(f"{c.scores[name].seconds:.2f}" for name in self._names)])
        return _table(["candidate", "features", *self._names], rows, page)

    def _layers(self, page: terminal.Page) -> str:
        number = terminal.Column(self.by, terminal.NUMBER)
        columns = [terminal.Column("candidate", terminal.NAME), terminal.Column("unit"), number, terminal.Column("")]
        rows = [
            [c.init, unit, _number(found.value), "best" if unit == c.best_layer else found.why]
            for c in self.candidates
            for unit, found in c.layers.items()
        ]
        return terminal.table(columns, rows, page)

    def _skill(self, page: terminal.Page) -> str:
        rows = [
            [
                BASELINES.get(name, name),
                _number(found.tau),
                "-" if found.low is None else f"{found.low:.2f} to {found.high:.2f}",
                "-" if found.chance is None else f"{found.chance:.2f}",
                str(found.candidates),
            ]
            for name, found in self.skill.items()
        ]
        return _table(["", "tau", "95 % interval", "chance", "candidates"], rows, page)

    def _missing(self) -> list[str]:
        """A line for each reason, with the scores that lack a value for it."""
        found: dict[tuple[str, str], list[str]] = {}
        for c in self.candidates:
            for name, score in c.scores.items():
                if score.value is None:
                    found.setdefault((c.init, score.why), []).append(name)
        return [f"{init}: no {', '.join(names)}: {why}" for (init, why), names in found.items()]


def writable(out: str | epath.Path) -> epath.Path:
    """The folder; `InputError` for a file."""
    folder = files.opened(out)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out: expected a folder, found the file {folder}; name another")
    return folder


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]], page: terminal.Page) -> str:
    first, *others = titles
    numbers = (terminal.Column(title, terminal.NUMBER) for title in others)
    return terminal.table([terminal.Column(first, terminal.NAME), *numbers], rows, page)
