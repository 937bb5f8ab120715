"""What a check finds: one fact about the data or the plan, with its number, its threshold and a way to change it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxfer import terminal
from jaxfer.training import lineage

SEVERE, WARNING, NOTE = "severe", "warning", "note"
SEVERITIES = (SEVERE, WARNING, NOTE)
LISTED = 5  # examples of a finding


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
    """One example.

    Attributes:
      split: its split; empty for what is of none.
      row: of the source's column, from 0; texts and tables count rows after the header. None for a class, a column of a
        table, a file that was left out, a parameter.
      name: its file or its text, as far as the source knows one; or that of the class, the column, the parameter.
      says: what is to be seen there.
    """

    split: str = ""
    row: int | None = None
    name: str = ""
    says: str = ""

    def __str__(self) -> str:
        name = terminal.shortened(" ".join(self.name.split()), 60)
        what = " ".join(filter(None, (self.split, "" if self.row is None else str(self.row), name)))
        return f"{what}: {self.says}" if self.says else what

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it: `row` only where there is one."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value is not None}


Some = Callable[[str, Sequence[int], Callable[[int], str]], tuple[Example, ...]]  # `Opened.some`


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """One finding: a number beside its threshold, both of one kind, such as two shares, and examples.

    A note that something could not be looked at, or that repeats a line of the plan, has neither number nor threshold.

    Attributes:
      severity: one of SEVERITIES.
      kind: its kind, as in docs/evidence.md.
      message: a sentence with its number.
      fix: a field of the config or a command.
      value: the number; None for such a note.
      threshold: from which on, or below which, there is a finding of this kind and severity; None likewise.
      examples: a few rows, or classes, columns, files or parameters where it is about these.

    Raises:
      ValueError: a number without a threshold, a threshold without a number, or a warning without both.
    """

    severity: str
    kind: str
    message: str
    fix: str
    value: float | None = None
    threshold: float | None = None
    examples: tuple[Example, ...] = ()

    def __post_init__(self) -> None:
        if (self.value is None) != (self.threshold is None) or (self.value is None and self.severity != NOTE):
            raise ValueError(f"{self.kind}: expected a value and a threshold, found {self.value} and {self.threshold}")

    def text(self) -> str:
        """Its lines."""
        some = [f"  {example}" for example in self.examples]
        return "\n".join([f"{self.severity.ljust(7)}  {self.kind}: {self.message}", *some, f"  fix: {self.fix}"])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """All findings, the worst first.

    Attributes:
      findings: in the order of SEVERITIES, within one in that of the checks.
      examples: {split: how many were looked at}.
      seconds: that it took.
      config: as it was named, `FILE` or `FILE:ARG`; empty for one that is no file.
      overrides: {"data.x": value}, as they were given.
      most: at most so many examples of a split were to be looked at; 0: all.
    """

    findings: tuple[Finding, ...]
    examples: dict[str, int]
    seconds: float
    config: str = ""
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    most: int = 0

    @property
    def counts(self) -> dict[str, int]:
        """{severity: number of findings}."""
        return {name: sum(found.severity == name for found in self.findings) for name in SEVERITIES}

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it, with the command that repeats it (null for a config that is no file), and the versions."""
        again = {"config": self.config, "overrides": dict(self.overrides), "examples": self.most}
        findings = [
            {**dataclasses.asdict(found), "examples": [example.to_dict() for example in found.examples]}
            for found in self.findings
        ]
        return {
            "findings": findings,
            "examples": self.examples,
            "seconds": self.seconds,
            "counts": self.counts,
            "config": self.config,
            "command": again if self.config else None,
            "versions": lineage.versions(),
        }

    def text(self, page: terminal.Page = terminal.FILE) -> str:
        """The findings, and a last line that counts them."""
        counts = self.counts
        looked = ", ".join(f"{count:,} of {name}" for name, count in self.examples.items())
        plural = f"{counts[WARNING]} warning{'' if counts[WARNING] == 1 else 's'}"
        plural += f", {counts[NOTE]} note{'' if counts[NOTE] == 1 else 's'}"
        last = f"{counts[SEVERE]} severe, {plural}; looked at {looked} in {self.seconds:.1f} s"
        text = "\n".join(terminal.wrapped(line, page.width) for line in [*(f.text() for f in self.findings), last])
        return text.encode(errors="backslashreplace").decode()  # Linux keeps names as bytes


def percent(share: float) -> str:
    """`3.2 %`."""
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"


def graded(share: float, severe: float | None, warning: float) -> tuple[str, float]:
    """(severity, its threshold) of a share of examples; below `warning` it is a note, from 0 on."""
    if severe is not None and share >= severe:
        return SEVERE, severe
    return (WARNING, warning) if share >= warning else (NOTE, 0.0)


def reached(value: float, thresholds: Mapping[str, float]) -> tuple[str, float] | None:
    """(severity, its threshold): the first of {severity: threshold}, highest first, that a value is at or above."""
    return next(((severity, least) for severity, least in thresholds.items() if value >= least), None)


def listed(names: Sequence[str]) -> str:
    """The first of them, and how many more."""
    more = f" and {len(names) - LISTED:,} more" if len(names) > LISTED else ""
    return f"{', '.join(names[:LISTED])}{more}"
