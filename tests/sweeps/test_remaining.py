"""The time that a sweep has left, by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from jaxfer.sweeps.executor import Outcome
from jaxfer.sweeps.remaining import Remaining


def job(key, programs=("step",), examples=10, alike=""):
    return SimpleNamespace(key=key, programs=programs, examples=examples, alike=alike)


def done(seconds, compiling=0.0, compiles=0, rate=10.0):
    cost = {"seconds": seconds, "compile_seconds": compiling, "examples_per_second": rate}
    return Outcome(status="done", result={"cost": cost}, compiles=compiles)


def told(jobs, processes, times, outcomes, **how):
    """What is left after each of them; `times` are of the beginning and of every end."""
    clock = iter(times)
    remaining, ended, left = Remaining(jobs, processes, clock=lambda: next(clock), **how), {}, []
    for one, outcome in zip(jobs, outcomes, strict=False):
        ended[one.key] = outcome
        left.append(remaining.after(one, outcome, ended))
    return left


def test_the_first_start_and_its_program_are_no_measure():
    """1 s for the examples and 0.5 s else, of which half counts; two side by side. Then 0.25 s else, then none."""
    jobs = [job(str(i)) for i in range(5)]
    outcomes = [done(4.0, 2.5, 1), *[done(1.0)] * 4]
    assert told(jobs, 2, [100, 109, 109.5, 110, 110.5, 111], outcomes) == [3, 2, 1, 1, 0]


def test_what_comes_between_cells_lengthens_them():
    """Cells of 1 s end 2 s apart: 4, 3 and 2 of them are left; one that waits an hour for its disk says little."""
    jobs = [job(str(i)) for i in range(6)]
    assert told(jobs, 1, [0, 5, 7, 9, 3609], [done(1.0)] * 4) == [5, 4 * 2, 3 * 2, 2 * 2]


def test_other_programs_take_what_these_did_and_are_compiled():
    """Left are 2 cells of a known program, 1 s each, and 2 of another: 2 s each on average, and 6 s to compile it."""
    jobs = [
        job("a", ("x",)),
        job("b", ("y",)),
        *(job(key, ("x",)) for key in "cd"),
        *(job(key, ("z",)) for key in "ef"),
    ]
    assert told(jobs, 1, [0, 7, 16], [done(7.0, 6.0, 1), done(9.0, 6.0, 1)])[1] == 2 * 1 + 2 * 2 + 6


def test_a_long_source_says_how_long_an_example_takes():
    """18 s for 900 examples at 50 a second, and 2 s else, of which half counts: 2 + 1 s for 100."""
    jobs = [job("source", ("x",), 900), job("a", ("y",), 100), job("b", ("y",), 100)]
    assert told(jobs, 1, [0, 25], [done(25.0, 5.0, 1, rate=50.0)]) == [3 + 3 + 5]


def test_cells_that_are_trained_together_count_once():
    """Ten as one, of 1 s and half of 3; so are those left, 0.1 s each."""
    jobs = [job("a"), *(job(str(i), alike="rates") for i in range(10))]
    assert told(jobs, 1, [0, 4, 4.1, 4.2, 4.3], [done(4.0), *[done(0.1)] * 3]) == [3, 1, 1, 1]


def test_where_nothing_is_known_cells_end_as_far_apart_as_they_did():
    failed = Outcome(status="failed", message="why")
    jobs = [job(str(i)) for i in range(5)]
    assert told(jobs, 2, [100, 109, 110, 112], [failed] * 3) == [36, 3, 3]
    assert told(jobs, 2, [100, 109, 110, 112], [done(50.0)] * 3, trained=True) == [36, 3, 3]


@pytest.mark.parametrize("processes", [1, 2])
def test_the_last_cell_is_not_shared(processes):
    jobs = [job("a"), job("b")]
    assert told(jobs, processes, [0, 3], [done(1.0, rate=5.0)]) == [1]
