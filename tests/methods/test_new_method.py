"""A whole new method is one file: the README's example is dropped into the room and used."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import jaxfer
import jaxfer.config
import jaxfer.methods
from jaxfer import conformance
from jaxfer.conformance import methods
from jaxfer.registry import METHODS
from jaxfer.rules import flatten
from jaxfer.runs.finished import open_run
from tests.experiments import tiny_config

README = (Path(__file__).parent.parent.parent / "README.md").read_text()


@pytest.fixture
def example(tmp_path, monkeypatch):
    """The method in the README, in a folder of its own that counts as part of the room."""
    (source,) = re.findall(r"```python\n# jaxfer/methods/(?:\w+)\.py\n(.*?)```", README, re.DOTALL)
    (name,) = re.findall(r"# jaxfer/methods/(\w+)\.py\n", README)
    assert len(source.splitlines()) < 60
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.setattr(jaxfer.methods, "__path__", [*jaxfer.methods.__path__, str(tmp_path)])
    return name


def test_the_readmes_method_works(example, tmp_path):
    config = jaxfer.config.override(tiny_config("resnet_basic", steps=3, lr=0.1), {"method": example})
    assert jaxfer.run(config, tmp_path / "run", quiet=True)["steps"] == 3
    run = open_run(tmp_path / "run")
    scales = flatten(run.state.params[example])
    assert len(scales) == 6 and all(np.abs(scale - 1).max() > 0 for scale in scales.values())


AXES = (conformance.CONVOLUTION, conformance.TRANSFORMER)
REST = tuple(case for case in conformance.families() if case not in AXES)


@pytest.mark.parametrize("cases", [AXES, pytest.param(REST, marks=pytest.mark.matrix)], ids=["axes", "rest"])
def test_the_readmes_method_conforms(cases, example):
    assert example in METHODS.names(), "the conformance suite is over these names"
    verdicts = dict(conformance.check_method(example, cases))
    shapes = len(conformance.families()) * len(methods.SHAPES)
    assert len(verdicts) == shapes + len(cases) * len(methods.NUMBERS) + len(methods.PLACED)
    assert not {name: problem for name, problem in verdicts.items() if problem}
