"""A user's own methods, models, tasks and sources, in folders next to their config."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys

import pytest

import jaxfer
from jaxfer import config as configs
from jaxfer import registry
from jaxfer.errors import InputError
from jaxfer.pretrained.agreement import described
from jaxfer.sweeps import code
from jaxfer.training.preflight import preflight

HALVED = '''"""The head and the biases, at half the rate."""

from jaxfer.method import FROZEN, Method


def method(port, *, width: int = 3):
    return Method(rules=((f"{port.head}/.*|.*/bias", "head"), (".*", FROZEN)), hparams={"lr": (0.5, (0.5,))})
'''
# Its class is pickled by name into the loader's processes.
BARS = '''"""Ten images: bright left half, or bright right half."""

import dataclasses

import numpy as np

from jaxfer.data.lookup import fingerprint
from jaxfer.data.split import Array, Dataset, Split


@dataclasses.dataclass(frozen=True)
class Bar:
    size: int

    kind = "image"

    @property
    def sha256(self):
        return fingerprint(["bars", str(self.size)])

    def __len__(self):
        return 10

    def __getitem__(self, row):
        image = np.zeros((self.size, self.size, 1), np.uint8)
        image[:, (row % 2) * self.size // 2 :][:, : self.size // 2] = 255
        return image


def source(*, size: int = 8):
    split = Split.whole(image=Bar(size), label=Array(np.arange(10, dtype=np.int32) % 2, "class"))
    return Dataset(splits={"train": split, "val": split}, classes=("left", "right"), fingerprint=fingerprint(["bars"]))
'''
OWN = """
from jaxfer.models import resnet


def port(options: resnet.Options, *, outputs: int, head: str = "pooled"):
    return resnet.port(options, outputs=outputs, head=head)
"""
CONFIG = """
import jaxfer.config


def get_config(arg=""):
    config = jaxfer.config.base()
    config.model = dict(name="resnet", stage_sizes=(1,), width=8, stem="cifar", image=(8, 8, 1))
    config.data = dict(source="bars", workers=1)
    config.update(method="halved", options=dict(width=2), steps=2, batch_size=4)
    return config
"""


@contextlib.contextmanager
def forgotten_rooms(*names):
    """Afterwards the rooms are as they were, and these modules are imported no longer."""
    kept = {room: list(importlib.import_module(room.package).__path__) for room in registry.ROOMS}
    before = os.environ.pop(registry.VARIABLE, None)
    try:
        yield
    finally:
        os.environ.pop(registry.VARIABLE, None)
        os.environ.update({} if before is None else {registry.VARIABLE: before})
        for room, path in kept.items():
            importlib.import_module(room.package).__path__[:] = path
            for name in names:
                sys.modules.pop(f"{room.package}.{name}", None)


@pytest.fixture
def repository(tmp_path):
    """A user's repository."""
    for name, text in (
        ("methods/halved.py", HALVED),
        ("configs/sources/bars.py", BARS),
        ("configs/exp.py", CONFIG),
        ("methods/notes.py", "WIDTH = 3\n"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    with forgotten_rooms("halved", "bars"):
        yield tmp_path


@pytest.mark.system
def test_files_next_to_the_config_or_its_folder_train_and_are_there_again_for_eval(repository, tmp_path):
    with forgotten_rooms("halved", "bars"):
        config = configs.load(str(repository / "configs/exp.py"), {"options.width": "5"})
        assert config.rooms == (str(repository / "configs"), str(repository))
        assert config.options.width == 5
        result = jaxfer.run(config, tmp_path / "run", quiet=True)
    assert "halved" not in registry.METHODS.names()
    with forgotten_rooms("halved", "bars"):
        assert jaxfer.evaluate(tmp_path / "run") == result["metrics"]["val"]
    (repository / "methods/halved.py").unlink()
    with pytest.raises(InputError, match=r"unknown method 'halved'.*config\.rooms"):
        jaxfer.evaluate(tmp_path / "run")


def test_a_model_of_ones_own_is_known_where_its_run_is_a_source(repository, tmp_path):
    """In a process that has resolved no config yet: `jaxfer merge` begins with a stored one."""
    (repository / "models").mkdir()
    (repository / "models/own.py").write_text(OWN)
    with forgotten_rooms("halved", "bars", "own"):
        config = configs.load(str(repository / "configs/exp.py"), {"model.name": "own", "model.width": 8})
        (tmp_path / "source").mkdir()
        (tmp_path / "source/config.json").write_text(json.dumps(preflight(config).experiment.to_dict()))
    config.init, config.model = f"run:{tmp_path / 'source'}", dict(name="own")
    with forgotten_rooms("halved", "bars", "own"):
        assert described(config).config.model.width == 8


def test_they_are_part_of_a_cells_address(repository):
    experiment = preflight(configs.load(str(repository / "configs/exp.py"))).experiment

    def version():
        code._version.cache_clear()
        return code.code_version(experiment)

    before = version()
    (repository / "methods/other.py").write_text(HALVED)
    assert version() == before
    for name in ("methods/halved.py", "configs/sources/bars.py", "methods/notes.py"):
        (repository / name).write_text((repository / name).read_text() + "\n# changed\n")
        assert version() != before, name
        before = version()


def test_the_name_of_another_is_refused(repository):
    (repository / "methods/lora.py").write_text(HALVED)
    with pytest.raises(InputError, match=r"methods/lora\.py: a method of this name exists \(.*\); rename the file"):
        configs.load(str(repository / "configs/exp.py"))


def test_a_process_that_a_run_starts_knows_them(repository):
    registry.use((str(repository), str(repository / "configs")))
    code = "import jaxfer.data.sources.bars as b; print(b.Bar(8)[1].sum())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == 8 * 4 * 255


def test_entry_points_of_installed_packages_are_members(tmp_path, monkeypatch):
    (tmp_path / "their_package.py").write_text(HALVED)
    info = tmp_path / "their_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[jaxfer.methods]\ntheirs = their_package:method\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry._entry_points.cache_clear()
    try:
        assert "theirs" in registry.METHODS.names()
        assert registry.METHODS.schema("theirs") == {"width": (int, 3)}
        assert registry.METHODS.sources("theirs") == (tmp_path / "their_package.py",)
    finally:
        registry._entry_points.cache_clear()
