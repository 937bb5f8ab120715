"""The sections on one run: what was trained, its data, its errors, its calibration."""

from __future__ import annotations

from etils import epath

from jaxfer.reports.page import Section


def of_one(folder: epath.Path, name: str, *, evaluate: bool) -> list[Section]:
    return []
