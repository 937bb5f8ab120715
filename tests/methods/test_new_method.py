"""A whole new method is one file: the documentation's example is dropped into the room and used."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import jaxfer
import jaxfer.config
import jaxfer.methods
from jaxfer.finished import open_run
from jaxfer.registry import METHODS
from jaxfer.rules import flatten
from tests import test_conformance as conformance
from tests.experiments import tiny_config
from tests.test_conformance import CASES

PAGE = (Path(__file__).parent.parent.parent / "docs/extending.md").read_text()


@pytest.fixture
def example(tmp_path, monkeypatch):
    """The method in the documentation, in a folder of its own that counts as part of the room."""
    (source,) = re.findall(r"```python\n# jaxfer/methods/(?:\w+)\.py\n(.*?)```", PAGE, re.DOTALL)
    (name,) = re.findall(r"# jaxfer/methods/(\w+)\.py\n", PAGE)
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


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    "check",
    [
        conformance.test_frozen_leaves_stay_bitwise_and_trainable_ones_move,
        conformance.test_one_compile_for_four_rates_and_decays,
        conformance.test_merged_parameters_alone_give_the_adapted_outputs,
    ],
)
def test_the_readmes_method_conforms(check, case, example):
    assert example in METHODS.names(), "the conformance suite is over these names"
    check(example, case)
