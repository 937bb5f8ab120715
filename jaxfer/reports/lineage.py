"""Where a result comes from: its sources with their sha256, its data, the versions, and the command that repeats it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from jaxfer import files
from jaxfer.reports.markup import tag
from jaxfer.reports.page import Part, Section, definitions, paragraph
from jaxfer.reports.tables import table, text, whole


def section(
    results: Mapping[str, Mapping[str, Any]],
    folders: Mapping[str, Sequence[epath.Path]],
    command: Sequence[str],
    root: epath.Path,
) -> Section:
    """The origin of what a report shows.

    Args:
      results: {name: result.json} of the runs that stand for the others.
      folders: {name: run folders} of every number's runs.
      command: that repeats it; empty: none is known.
      root: of the report, from which folders are written.
    """
    parts, rows = again(command), []
    for name, result in results.items():
        lineage = result["lineage"]
        data, source = lineage["data_sha256"], lineage.get("source_sha256")
        rows.append([text(name), text(lineage["init"]), *(_hash(v) for v in (source, data, lineage["sha256"]))])
    if rows:
        headers = ("what", "starts from", "source sha256", "data sha256", "weights sha256")
        parts.append(Part(content=table(headers, rows, caption="Origins", link="origins"), name="table origins"))
    parts += _ledgers({name: folders[name][0] for name in results if folders.get(name)})
    if results:
        one = next(iter(results.values()))
        versions = ", ".join(f"{name} {version}" for name, version in one["versions"].items())
        parts.append(Part(content=definitions({"versions": versions, "device": one.get("device"), "mesh": _mesh(one)})))
    where = [[text(name), text(" ".join(_below(root, f) for f in found))] for name, found in folders.items() if found]
    if where:
        content = tag(
            "details",
            tag("summary", "Run folders of every number"),
            table(("what", "run folders, by seed"), where, label="Run folders"),
        )
        parts.append(Part(content=content, name="table of run folders"))
    return Section(name="Lineage", title=_title(results, sum(map(len, folders.values()))), parts=parts)


def _title(results: Mapping[str, Mapping[str, Any]], runs: int) -> str:
    """`full: data 1f0c…, begun from weights/x; 15 runs in all`: of the first; how many others began elsewhere."""
    made = f"{runs:,} run{'' if runs == 1 else 's'} in all"
    if not results:
        return f"{made}; their origin is not known"
    (name, first), *others = results.items()
    begun = f"data {str(first['lineage']['data_sha256'])[:12]}, begun from {first['lineage']['init']}"
    differing = sum(other["lineage"]["init"] != first["lineage"]["init"] for _, other in others)
    more = f"; {differing} of {len(others)} others begun elsewhere" if others else ""
    return f"{name}: {begun}{more}; {made}"


def spelled(command: str, config: str, overrides: Mapping[str, Any], options: Mapping[str, Any]) -> list[str]:
    """The words of a command: its config, its overrides, then its options as the command line has them.

    An option of None, False or nothing is left out; a list is joined by commas.
    """
    given = [f"--config.{name}={_word(value)}" for name, value in overrides.items()]
    for name, value in options.items():
        if value is True:
            given.append(f"--{name.replace('_', '-')}")
        elif value is not None and value is not False and value != [] and value != ():
            given.append(f"--{name.replace('_', '-')}={_word(value)}")
    return ["jaxfer", command, config, *given]


def _word(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def again(command: Sequence[str]) -> list[Part]:
    """The command that repeats something; [] where none is known."""
    shown = Part(content=tag("pre", tag("code", shlex.join(command)), tabindex="0"))
    return [paragraph("The command that repeats it:"), shown] if command else []


def of_file(name: str, found: Mapping[str, Any], hashes: Mapping[str, object]) -> Section:
    """What was read, the versions, and the command, as far as the file has them."""
    parts, versions = [], found.get("versions", {})
    if command := found.get("command"):
        options = {key: value for key, value in command.items() if key not in ("config", "overrides")}
        options |= {"out": "NEW_FOLDER"} if name == "rank" else {"json": True}
        parts += again(spelled(name, command["config"], command["overrides"], options))
    shown = ", ".join(f"{package} {version}" for package, version in versions.items())
    parts.append(Part(content=definitions({**hashes, "versions": shown or "not known"})))
    by = f"jaxfer {versions['jaxfer']}" if "jaxfer" in versions else "an older jaxfer"
    read = f"{len(hashes)} candidates read, by sha256" if hashes else f"Written by {by}"
    return Section(name="Lineage", title=read, parts=parts)


def _hash(value: Any) -> Any:
    return text(value or "", tag("code", str(value)[:12]) if value else "–")


def _mesh(result: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {count}" for name, count in result.get("mesh", {}).items())


def _below(root: epath.Path, folder: epath.Path) -> str:
    return str(folder).removeprefix(str(root)).lstrip("/") or "."


def _ledgers(folders: Mapping[str, epath.Path]) -> list[Part]:
    """A row for each of these runs: how many arrays came from where; [] where none has a ledger."""
    found = {name: counts for name, folder in folders.items() if (counts := ledger(folder))}
    if not found:
        return []
    origins = list(dict.fromkeys(origin for counts in found.values() for origin in counts))
    rows = [[text(name), *(whole(counts.get(origin, 0)) for origin in origins)] for name, counts in found.items()]
    content = table(("what", *origins), rows, caption="Arrays of parameters, by where they came from", link="ledger")
    return [Part(content=content, name="table ledger")]


def ledger(folder: epath.Path) -> dict[str, int]:
    """What the load ledger says in short: {origin: number of arrays}; {} without one."""
    path = folder / "ledger.json"
    if not path.exists():
        return {}
    counts: dict[str, int] = {}
    for leaf in files.read_json(path).get("leaves", {}).values():
        origin = leaf.get("what", "?") if isinstance(leaf, Mapping) else str(leaf)
        counts[origin] = counts.get(origin, 0) + 1
    return counts
