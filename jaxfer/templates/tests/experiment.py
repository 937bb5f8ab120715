"""__NAME__: every argument of the config trains for two steps."""

from pathlib import Path

import pytest

import jaxfer

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "__NAME__.py"


@pytest.mark.parametrize("arg", ["", "pretrain", "probe"])
def test_it_trains(arg, tmp_path):
    result = jaxfer.run(jaxfer.load(f"{CONFIG}:{arg},tiny"), tmp_path, quiet=True)
    assert result["steps"] == 2
