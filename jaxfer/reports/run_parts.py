"""The sections on one run: its data, what was trained, its errors, its calibration."""

from __future__ import annotations

from etils import epath

from jaxfer import files
from jaxfer.errors import InputError
from jaxfer.reports import datasheet, findings, mistakes, trained
from jaxfer.reports.looked import Looked, look
from jaxfer.reports.page import Section, paragraph
from jaxfer.runs.finished import planned


def of_one(folder: epath.Path, name: str, *, evaluate: bool, root: epath.Path | None = None) -> list[Section]:
    """What a finished run shows in detail.

    Args:
      folder: of the run.
      name: what it is called where the report is on more than it; empty: the report is on it alone.
      evaluate: evaluate val once more; without it, or where it can't be, its files alone tell.
      root: the report's folder, which may hold a doctor.json; None: the run's.
    """
    _, result, stages = planned(folder)
    config, seen, notes = files.read_json(folder / "config.json"), None, []
    if evaluate:
        try:
            seen = look(folder, mistakes.KINDS)
        except InputError as error:
            notes.append(f"Mistakes, calibration and movements are missing: {error}.")
    task = stages[-1].config.task or config["task"]["name"]
    wrong = mistakes.KINDS.get(task)
    if wrong is None:
        shown = ", ".join(mistakes.KINDS)
        notes.append(f"Mistakes are shown of the tasks {shown}; this one is {task}.")
    found = () if seen is None else (*seen.notes, *_copies(seen))
    diagnosed = findings.beside(root or folder)
    sections = [datasheet.section(result, config, seen and seen.data, [*notes, *found], diagnosed)]
    sections.append(trained.section(stages, seen.moved if seen else {}, seen.alike if seen else {}, ()))
    if wrong is not None:
        sections += wrong(result, seen)
    if name:
        about = paragraph(f"Of the run {name}: {folder.name}.", muted=True)
        for i, section in enumerate(sections):
            sections[i] = Section(name=section.name, title=section.title, parts=[about, *section.parts])
    return sections


def _copies(seen: Looked) -> list[str]:
    return [f"{line[0].upper()}{line[1:]}." for line in seen.copies] or [
        "No copies within or across splits were found."
    ]
