"""Every file in configs/ builds, shows and runs by its own `tiny` switch. A new config joins by existing."""

from __future__ import annotations

from pathlib import Path

import pytest

import jaxfer
from jaxfer import config
from jaxfer.commands import main
from jaxfer.sweeps import cells

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.py"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_builds_shows_and_runs_two_steps(path, tmp_path, capsys):
    full = config.load(str(path))
    if full.model.name == "auto":  # the checkpoint's own; what else the config says is as it would be with the tiny one
        full.model = config.load(f"{path}:tiny").model
    config.resolve(full)
    assert main(["show", f"{path}:tiny"]) == 0
    shown = capsys.readouterr().out
    assert "x forward" in shown and "head/out/kernel" in shown
    result = jaxfer.run(config.load(f"{path}:tiny", {"parallel.devices": 1}), tmp_path, quiet=True)
    assert result["steps"] == 2
    assert set(result["metrics"]) >= {"val"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_docstring_holds_the_command(path):
    module, _ = config.load_module(str(path))
    assert f"jaxfer run configs/{path.name}" in module.__doc__


def test_every_variant_of_the_quickstart_resolves():
    module, _ = config.load_module("configs/digits.py")
    planned = cells.plan("configs/digits.py", cells.expand("configs/digits.py"))
    assert len({p.key for p in planned}) == len(planned) == 1 + 8 * 3
    for arg in ("pretrain", *module.METHODS):
        config.resolve(config.load(f"configs/digits.py:{arg}"))
        config.resolve(config.load(f"configs/digits.py:{arg},tiny"))
