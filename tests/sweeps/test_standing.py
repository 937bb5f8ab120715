"""The time that a sweep has left, by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from jaxfer import sweeps
from jaxfer.sweeps.executor import Outcome


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        # 1.5 s without its program, two side by side: 4 cells take 3 s. Then cells end 1 s apart, then 2 s.
        ({"seconds": 4.0, "compile_seconds": 2.5}, [3, 3, 4, 2, 0]),
        (None, [36, 3, 4, 2, 0]),  # one that failed says nothing but when it ended
    ],
)
def test_the_first_start_is_no_measure(monkeypatch, first, expected):
    seconds, clock = [], iter([100.0, 109.0, 110.0, 113.0, 115.0, 117.0])
    monkeypatch.setattr(sweeps.time, "perf_counter", lambda: next(clock))
    reporter = SimpleNamespace(cell=lambda done, name, ending, note, seconds_left, plain: seconds.append(seconds_left))
    standing = sweeps._Standing({str(i): f"cell {i}" for i in range(5)}, reporter, 2, plain=True)
    for i in range(5):
        cost = first if i == 0 else {"seconds": 1.0, "compile_seconds": 0.0}
        result = None if cost is None else {"cost": cost, "metrics": {"val": {"loss": 0.5}}}
        job = SimpleNamespace(key=str(i), split="val", metric="loss", maximize=False, cell=SimpleNamespace(group=None))
        standing.told(job, Outcome(status="failed" if result is None else "done", result=result))
    assert seconds == expected
