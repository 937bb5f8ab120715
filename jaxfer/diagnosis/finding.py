"""What a check finds: one fact about the data or the plan, with its number, its threshold and a way to change it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from jaxfer import terminal

SEVERE, WARNING, NOTE = "severe", "warning", "note"
SEVERITIES = (SEVERE, WARNING, NOTE)
LISTED = 5  # examples of a finding


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
    """One example.

    Attributes:
      split: its split.
      row: of the source's column, from 0; texts and tables count rows after the header.
      name: its file or its text, as far as the source knows one.
      says: what is to be seen there.
    """

    split: str
    row: int
    name: str = ""
    says: str = ""

    def __str__(self) -> str:
        name = f" {terminal.shortened(' '.join(self.name.split()), 60)}" if self.name else ""
        return f"{self.split} {self.row}{name}{f': {self.says}' if self.says else ''}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """One finding.

    Attributes:
      severity: one of SEVERITIES.
      kind: its kind, as in docs/evidence.md.
      message: a sentence with its number.
      fix: a field of the config or a command.
      value: the number.
      threshold: from which on, or below which, there is a finding of this kind and severity.
      examples: a few.
    """

    severity: str
    kind: str
    message: str
    fix: str
    value: float | None = None
    threshold: float | None = None
    examples: tuple[Example, ...] = ()

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
    """

    findings: tuple[Finding, ...]
    examples: dict[str, int]
    seconds: float

    @property
    def counts(self) -> dict[str, int]:
        """{severity: number of findings}."""
        return {name: sum(found.severity == name for found in self.findings) for name in SEVERITIES}

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**dataclasses.asdict(self), "counts": self.counts}

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
