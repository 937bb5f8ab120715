"""__NAME__ keeps the contract of a task: `jaxfer check task __NAME__`, as a test."""

from pathlib import Path

from jaxfer import conformance, registry

registry.use([str(Path(__file__).resolve().parents[1])])


def test_it_keeps_the_contract():
    problems = [f"{what}: {problem}" for what, problem in conformance.check_task("__NAME__") if problem]
    assert not problems, "\n".join(problems)
