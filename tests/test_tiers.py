"""What a session says of its tiers and its slowest tests."""

from __future__ import annotations

import types

from tests.conftest import Times


def report(test, seconds, tier=None):
    return types.SimpleNamespace(nodeid=test, duration=seconds, keywords={tier: 1} if tier else {})


def config(path=None, workers=2):
    return types.SimpleNamespace(option=types.SimpleNamespace(numprocesses=workers), getoption=lambda name: path)


def test_both_tiers_are_extrapolated_to_25_methods_and_19_families():
    times = Times()
    times.pytest_runtest_logreport(report("t.py::test_shapes[full-vit_cls]", 0.5, "tier_i"))
    times.pytest_runtest_logreport(report("t.py::test_shapes[lora-vit_cls]@lora-vit_cls", 1.5, "tier_i"))
    for check, seconds in (("frozen", 2.0), ("merged", 4.0)):  # one pair
        times.pytest_runtest_logreport(
            report(f"t.py::test_numbers[{check}-full-vit_cls]@full-vit_cls", seconds, "tier_ii")
        )
    times.pytest_runtest_logreport(report("t.py::test_numbers[frozen-lora-vit_cls]@lora-vit_cls", 2.0, "tier_ii"))
    times.pytest_runtest_logreport(report("t.py::test_else", 10.0))
    # 475 pairs of 1 s; 24 methods on two models of 2 s, 19 models of 6 s; 10 s besides.
    assert list(times.extrapolated(config())) == [
        "tier_i: 2 pairs in 2 s; 25 methods x 19 families: 475 pairs, 475 s",
        "tier_ii: 2 pairs in 8 s; 25 methods x 19 families: 67 pairs, 210 s",
        "all 6 tests with so many pairs: 5.8 min on 2 workers",
    ]


def test_a_session_without_a_tier_says_nothing_of_it():
    times = Times()
    times.pytest_runtest_logreport(report("t.py::test_shapes[full-vit_cls]", 0.5, "tier_i"))
    assert not list(times.extrapolated(config()))


def test_the_slowest_are_written_with_set_up_and_tear_down(tmp_path):
    times, said = Times(), []
    for number in range(30):
        times.pytest_runtest_logreport(report(f"t.py::test_{number}", number))
    times.pytest_runtest_logreport(report("t.py::test_0", 100.0))
    path = tmp_path / "slowest" / "test.txt"
    times.pytest_terminal_summary(types.SimpleNamespace(write_line=said.append), config(str(path)))
    lines = path.read_text().splitlines()
    assert lines[:2] == [" 100.00 t.py::test_0", "  29.00 t.py::test_29"] and len(lines) == 25 + 2
    assert lines[25:] == [" 535.00 files:", " 535.00 t.py"]
    assert said == [f"the 25 slowest tests: {path}"]
