"""Collectives in a compiled program's text (XLA's HLO): bytes that one device sends in one call."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_WIDTHS = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f64": 8, "s64": 8, "u64": 8}
_COLLECTIVE = re.compile(rf" = (?P<shape>\(.*?\)|\S+) (?P<kind>{'|'.join(COLLECTIVES)})(?P<start>-start)?\(")


def sent(hlo: str) -> dict[str, float]:
    """{kind of collective: bytes that a device sends in one call of the program}.

    Counted as in a ring of the n devices of a group: an all-reduce sends 2 (n - 1) / n of its array, an all-gather, a
    reduce-scatter and an all-to-all (n - 1) / n of the whole one, a permutation all of its own. A channel counts once,
    in however many pieces the compiler has cut it to run beside other work. A loop's body counts as often as the loop
    runs, where that counts up from 0 to a constant as XLA's own loops do; in any other loop once.
    """
    hlo = re.sub(r"/\*.*?\*/", "", hlo)  # /*index=5*/ in long tuples
    devices = re.search(r"num_partitions=(\d+)", hlo)
    computations, totals, channels = _computations(hlo), dict[str, float](), set[str]()
    times = _times(computations)
    for name, lines in computations.items():
        for line in lines:
            match = _COLLECTIVE.search(line)
            channel = re.search(r"channel_id=(\d+)", line)
            if not match or (channel and channel[1] in channels):
                continue
            channels |= {channel[1]} if channel else set()
            kind, members = match["kind"], _members(line, int(devices[1]) if devices else 1)
            size = times.get(name, 1) * _result(match["shape"], kind, bool(match["start"]))
            if kind != "collective-permute":
                size *= {"all-reduce": 2, "reduce-scatter": members}.get(kind, 1) * (members - 1) / members
            totals[kind] = totals.get(kind, 0) + size
    return totals


def _result(shape: str, kind: str, start: bool) -> int:
    """Bytes of a collective's results."""
    sizes = [_bytes(*part) for part in re.findall(r"(\w+)\[([\d,]*)\]", shape)]
    if not start or kind == "all-reduce":
        return sum(sizes)
    if kind == "collective-permute":  # (operand, result, two numbers for synchronisation)
        return sizes[1]
    # Operands, then as many results: as one tuple of pairs or as two tuples, in the same order.
    return sum(sizes[len(sizes) // 2 :])


def _members(line: str, devices: int) -> int:
    """Number of devices that exchange data with each other: {{0,1},{2,3}}, [2,2]<=[4] or mesh['a'=2,'b'=2] {'b'}."""
    if match := re.search(r"replica_groups=\{\{([\d,]*)\}", line):
        return match[1].count(",") + 1
    if match := re.search(r"replica_groups=\[\d+,(\d+)\]", line):
        return int(match[1])
    if match := re.search(r"replica_groups=mesh\[(.*?)\][^{]*\{(.*?)\}", line):
        sizes = dict(re.findall(r"('\w+')=(\d+)", match[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'\w+'", match[2]))
    return devices


def _computations(hlo: str) -> dict[str, list[str]]:
    """{name: its lines}, the callers after what they call."""
    computations: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in hlo.splitlines():
        if match := re.match(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            lines = computations.setdefault(match[1], [])
        else:
            lines.append(line)
    return computations


def _times(computations: dict[str, list[str]]) -> dict[str, int]:
    """How often each computation runs."""
    times: dict[str, int] = {}
    for name in reversed(computations):
        for line in computations[name]:
            for called, trips in _called(line, computations):
                times[called] = max(times.get(called, 0), times.get(name, 1) * trips)
    return times


def _called(line: str, computations: dict[str, list[str]]) -> Iterator[tuple[str, int]]:
    """The computations that an instruction calls, each with its number of calls."""
    loop = re.search(r" while\(.*condition=%?([\w.\-]+), body=%?([\w.\-]+)", line)
    if loop:
        yield loop[2], _trips(*(computations.get(name, []) for name in loop.groups()))
    yield from ((name, 1) for name in re.findall(r"(?:calls|to_apply)=%?([\w.\-]+)", line))


def _trips(condition: list[str], body: list[str]) -> int:
    """Rounds of a loop `i < limit` whose body adds a constant to i, from 0; 1 where it is written otherwise."""
    tests, steps = "\n".join(condition), "\n".join(body)
    test = re.search(r"ROOT .* compare\(%?([\w.\-]+), %?([\w.\-]+)\), direction=LT", tests)
    limit = test and _constant(tests, test[2])
    counter = test and re.search(rf"{re.escape(test[1])} = .*get-tuple-element\(.*index=(\d+)", tests)
    result = re.search(r"ROOT .* tuple\((.*?)\)", steps)
    if not (limit and counter and result):
        return 1
    index = result[1].split(", ")[int(counter[1])].lstrip("%")
    added = re.search(rf"%?{re.escape(index)} = \S+ add\(%?([\w.\-]+), %?([\w.\-]+)\)", steps)
    step = added and (_constant(steps, added[2]) or _constant(steps, added[1]))
    return -(-limit // step) if step else 1


def _constant(text: str, name: str) -> int | None:
    match = re.search(rf"%?{re.escape(name)} = \S+ constant\((\d+)\)", text)
    return int(match[1]) if match else None


def _bytes(kind: str, sizes: str) -> int:
    return _WIDTHS.get(kind, 4) * math.prod(int(size) for size in sizes.split(",") if size)
