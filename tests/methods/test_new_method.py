"""A whole new method is one file: the one that `jaxfer new method` writes is used as it stands."""

from __future__ import annotations

import numpy as np
import pytest

import jaxfer
import jaxfer.config
from jaxfer import conformance, registry
from jaxfer.commands import main
from jaxfer.conformance import methods
from jaxfer.registry import METHODS
from jaxfer.rules import flatten
from jaxfer.runs.finished import open_run
from tests.experiments import tiny_config
from tests.test_own_files import forgotten_rooms


@pytest.fixture
def example(tmp_path):
    """The method that `jaxfer new` writes, in a folder of its own that counts as part of the room."""
    with forgotten_rooms("my_scale"):
        assert main(["new", "method", "my_scale", "--folder", str(tmp_path)]) == 0
        assert len((tmp_path / "methods" / "my_scale.py").read_text().splitlines()) < 60
        registry.use([str(tmp_path)])
        yield "my_scale"


def test_the_written_method_works(example, tmp_path):
    config = jaxfer.config.override(tiny_config("resnet_basic", steps=3, lr=0.1), {"method": example})
    assert jaxfer.run(config, tmp_path / "run", quiet=True)["steps"] == 3
    run = open_run(tmp_path / "run")
    scales = flatten(run.state.params[example])
    assert len(scales) == 6 and all(np.abs(scale - 1).max() > 0 for scale in scales.values())


AXES = (conformance.CONVOLUTION, conformance.TRANSFORMER)
REST = tuple(case for case in conformance.families() if case not in AXES)


@pytest.mark.system
@pytest.mark.parametrize(
    "cases",  # tests/commands/test_new.py asks as much of the same method by `jaxfer check`
    [pytest.param(AXES, marks=pytest.mark.rest), pytest.param(REST, marks=[pytest.mark.matrix, pytest.mark.rest])],
    ids=["axes", "rest"],
)
def test_the_written_method_conforms(cases, example):
    assert example in METHODS.names(), "the conformance suite is over these names"
    verdicts = dict(conformance.check_method(example, cases))
    shapes = len(conformance.families()) * len(methods.SHAPES)
    once = len(methods.LOWERED) + len(methods.PLACED)
    assert len(verdicts) == shapes + len(cases) * len(methods.NUMBERS) + once
    assert not {name: problem for name, problem in verdicts.items() if problem}
