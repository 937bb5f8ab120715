"""Which source files are part of a cell's address, and which are not."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

import pytest

import jaxfer
from jaxfer import registry
from jaxfer.sweeps import code
from jaxfer.training.preflight import preflight
from tests.experiments import tiny_config


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of the package, whose files may be changed."""
    root = tmp_path / "jaxfer"
    shutil.copytree(Path(jaxfer.__file__).parent, root, ignore=shutil.ignore_patterns("__pycache__"))
    for room in registry.ROOMS:
        module = registry.importlib.import_module(room.package)
        monkeypatch.setattr(module, "__path__", [str(root.joinpath(*room.package.split(".")[1:]))])
    monkeypatch.setattr(jaxfer, "__file__", str(root / "__init__.py"))
    yield root
    code._version.cache_clear()


def version(experiment):
    code._version.cache_clear()
    return code.code_version(experiment)


UNRELATED = (
    "methods/lora.py",
    "models/vit.py",
    "tasks/regression.py",
    "data/sources/npz.py",
    "figures/plots.py",
    "commands/run.py",
    "forecast/chips.py",
    "comparison/tables.py",
    "exports/hf.py",
    "training/progress.py",
    "sweeps/table.py",
    "pretrained/families/bert.py",
)
RELATED = (
    "methods/probe.py",
    "models/resnet.py",
    "models/layers.py",
    "tasks/classification.py",
    "data/sources/synthetic.py",
    "step.py",
    "data/order.py",
    "data/encoding.py",
    "data/encodings/augment/geometry.py",
    "data/encodings/image.py",
    "training/session.py",
)


def change(file):
    file.write_text(file.read_text() + "\n# changed\n")


def test_the_code_that_computes_a_cell_is_part_of_its_address_and_no_other(package):
    experiment = preflight(tiny_config("resnet_basic", method="probe")).experiment
    before = version(experiment)
    for file in UNRELATED:
        change(package / file)
        assert version(experiment) == before, file
    (package / "methods" / "mine.py").write_text("def method(port):\n    pass\n")  # a new one, too
    (package / "pretrained" / "families" / "mine.py").write_text("")
    assert version(experiment) == before
    for file in RELATED:
        change(package / file)
        assert version(experiment) != before, file
        before = version(experiment)


def test_a_cell_that_starts_from_weights_counts_what_reads_them(package, tmp_path):
    (tmp_path / "result.json").write_text('{"lineage": {"sha256": "a"}}')
    config = tiny_config("resnet_basic", init=f"run:{tmp_path}", head="reset")
    experiment = preflight(config).experiment
    before = version(experiment)
    change(package / "pretrained/families/vit.py")
    assert version(experiment) == before
    for file in ("pretrained/families/resnet.py", "pretrained/starting.py"):
        change(package / file)
        assert version(experiment) != before, file
        before = version(experiment)


def test_what_the_step_and_the_loader_import_is_counted():
    """A new core file joins COMPUTES, or is named below as one that can't change a number."""
    root = Path(jaxfer.__file__).parent
    exempt = {
        "errors.py",
        "registry.py",
        "schema.py",
        "hub_download.py",
        "__init__.py",
        "config",
        "models",
        "data/__init__.py",
    }
    waiting, seen = ["step.py", "stages.py", "data/loader.py", "data/prepare.py"], set()
    while waiting:
        name = waiting.pop()
        if name in seen or any(name == e or name.startswith(f"{e}/") for e in exempt):
            continue
        seen.add(name)
        assert any(name == entry or name.startswith(f"{entry}/") for entry in code.COMPUTES), name
        for node in ast.walk(ast.parse((root / name).read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jaxfer"):
                stem = "/".join(node.module.split(".")[1:])
                for target in (f"{stem}.py", *(f"{stem}/{alias.name}.py".lstrip("/") for alias in node.names)):
                    waiting += [target] * (root / target).is_file()
    assert len(seen) > 12
