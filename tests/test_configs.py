"""Every file in configs/ builds, shows and runs by its own `tiny` switch. A new config joins by existing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import jaxfer
from jaxfer import config
from jaxfer.commands import main
from jaxfer.comparison import protocol
from jaxfer.errors import InputError
from jaxfer.sweeps import cells
from jaxfer.training.preflight import preflight

STUDY = "experiments/digits_labels/config.py"
CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.py"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_builds_and_shows(path, capsys):
    full = config.load(str(path))
    if full.model.name == "auto":  # the checkpoint's own; what else the config says is as it would be with the tiny one
        full.model = config.load(f"{path}:tiny").model
    config.resolve(full)
    assert main(["show", f"{path}:tiny"]) == 0
    shown = capsys.readouterr().out
    new = full.task.name != "similarity"  # whose outputs are the model's own
    assert "x forward" in shown and ("head/out/kernel" in shown) == new


# One of each kind of data and task; `.ci/run` leaves the others to `make system`.
KINDS = ("digits", "heart", "mnist_usps", "pets_seg", "sst2", "two_tasks", "wnut17")


@pytest.mark.system
@pytest.mark.parametrize(
    "path",
    [pytest.param(path, id=path.stem, marks=() if path.stem in KINDS else pytest.mark.rest) for path in CONFIGS],
)
def test_config_runs_two_steps(path, tmp_path):
    result = jaxfer.run(config.load(f"{path}:tiny", {"parallel.devices": 1}), tmp_path, quiet=True)
    assert result["steps"] == 2
    assert set(result["metrics"]) >= {"val"}


WEIGHTS = Path(os.environ.get("JAXFER_DATA", "absent"), "weights")
FROM_FILES = [path for path in CONFIGS if '"weights/' in path.read_text()]


@pytest.mark.system
@pytest.mark.skipif(not WEIGHTS.is_dir(), reason="the data folder that JAXFER_DATA names has the weights, it is absent")
@pytest.mark.parametrize("path", FROM_FILES, ids=lambda path: path.stem)
def test_config_fits_its_real_data_and_weights(path):
    assert preflight(config.load(str(path))).stages


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_docstring_holds_the_command(path):
    module, _ = config.load_module(str(path))
    assert f"jaxfer run configs/{path.name}" in module.__doc__


def test_every_variant_of_the_quickstart_resolves():
    module, _ = config.load_module("configs/digits.py")
    planned = cells.make_jobs("configs/digits.py", cells.expand("configs/digits.py"))
    assert len({p.key for p in planned}) == len(planned) == 2 + 6 * 3
    for arg in ("pretrain", "mixed", *module.METHODS):
        config.resolve(config.load(f"configs/digits.py:{arg}"))
        config.resolve(config.load(f"configs/digits.py:{arg},tiny"))


def test_the_quickstart_compares_a_right_source_and_a_wrong_one():
    planned = protocol.make_design("configs/digits.py", {"compare.seeds": 1, "compare.trials": 1})
    assert [arm.name for arm in planned.arms] == ["scratch", "probe", "full", "lora", "lora@mixed"]
    right, wrong = (planned.tuning[5, arm, 0, 0] for arm in ("lora", "lora@mixed"))
    assert [p.key for p in planned.sources] == [*right.sources, *wrong.sources]
    assert right.key != wrong.key and right.programs == wrong.programs
    assert planned.record["sources"] == {"pretrain": right.sources[0], "mixed": wrong.sources[0]}


def test_the_study_of_label_counts_resolves():
    planned = cells.make_jobs(STUDY, cells.expand(STUDY))
    assert len({p.key for p in planned}) == 1 + 8 * 3
    assert config.load(STUDY).data.classes == ("5", "6", "7", "8", "9")


def test_shipped_configs_are_known_by_name(tmp_path, monkeypatch, capsys):
    assert list(config.shipped()) == [path.stem for path in CONFIGS]
    monkeypatch.chdir(tmp_path)  # outside the repository
    assert main(["configs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == [path.stem for path in CONFIGS]
    assert lines[0] == "digits           " + config.load_module("digits")[0].__doc__.splitlines()[0]
    assert config.load("digits:tiny").steps == 2
    Path("digits").mkdir()  # runs or data: no config can be meant
    assert config.load("digits:tiny").steps == 2
    Path("other").mkdir()
    with pytest.raises(InputError, match="'other' is a folder"):
        config.load("other")
    with pytest.raises(InputError, match="'digit' does not exist; nearest: 'digits'"):
        config.load("digit")
