"""The scripts of experiments/speed: that they run, and what of them can be checked without a clock."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxfer.config import resolve
from jaxfer.ports import make_port
from jaxfer.stages import make_stages

SPEED = Path(__file__).parents[1] / "experiments" / "speed"


def script(name):
    spec = importlib.util.spec_from_file_location(f"speed_{name}", SPEED / f"{name}.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def accelerator():
    return script("accelerator")


@pytest.mark.parametrize(
    ("kind", "tera"),
    [
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989),
        ("NVIDIA L4", 121),
        ("Tesla T4", 65),
        ("TPU v4", 275),
        ("TPU v5 lite", 197),
        ("TPU v5e", 197),
        ("TPU v5p", 459),
        ("TPU v5", 459),
        ("TPU v6 lite", 918),
        ("TPU v6e", 918),
        ("NVIDIA L40S", None),
        ("TPU v4 lite", None),
        ("cpu", None),
    ],
)
def test_published_peaks_by_the_kind_of_device(accelerator, kind, tera):
    assert accelerator.peak(kind) == (tera and tera * 1e12)


def test_batches_double_until_memory_is_out_and_the_fastest_is_kept(accelerator):
    seconds, asked = {8: 1.0, 16: 1.6, 32: 4.0}, []

    def measure(batch):
        asked.append(batch)
        if batch not in seconds:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 17179869184 bytes")
        return accelerator.Measured(batch, seconds[batch], 1.0)

    assert accelerator.search(measure, 8, 4096).batch == 16
    assert asked == [8, 16, 32, 64]
    assert accelerator.search(measure, 64, 4096) is None
    assert accelerator.search(measure, 8, 8).rate == 8
    with pytest.raises(ZeroDivisionError):
        accelerator.search(lambda batch: 1 / 0, 8, 16)


@pytest.mark.system
def test_the_accelerator_script_on_a_tiny_model(accelerator, capsys):
    arguments = ["--tiny", "--models", "ViT-B/16", "--largest", "8", "--seconds", "0.01", "--side", "jaxfer"]
    accelerator.main(arguments)
    found = json.loads(capsys.readouterr().out)["ViT-B/16"]
    assert (found["device"], found["mfu"], found["best"]["batch"]) == ("cpu", None, 8)
    # 4 patches of 16 x 16 x 3 and a class token, width 16: a layer has 6 products of its width squared for each token,
    # attention 2 of tokens squared, the head 1000 outputs; forward and backward are three times the forward pass.
    forward = 8 * 2 * (4 * 768 * 16 + 5 * 6 * 16 * 16 + 2 * 5 * 5 * 16 + 16 * 1000)
    assert forward * 2.5 < found["best"]["flops"] < forward * 4
    line = accelerator.row("ViT-B/16", {**found, "mfu": 0.4567}, {"best": {"batch": 4, "seconds": 2.0}})
    ours = 8 / found["best"]["seconds"]
    assert f"| 45.7% | 2 at 4 | {ours / 2:.2f} |" in line
    assert "not even the smallest" in accelerator.row("ViT-B/16", {**found, "best": None}, {})


def test_the_input_script_on_a_few_files(tmp_path, monkeypatch, capsys):
    tiles = tmp_path / "vision" / "flowers5" / "train" / "rose"
    tiles.mkdir(parents=True)
    for i in range(2):
        Image.fromarray(np.full((128, 128, 3), 100 * i, np.uint8)).save(tiles / f"{i}.jpg")
    monkeypatch.setenv("JAXFER_DATA", str(tmp_path))
    script("input").main(["--images", "4", "--batch-size", "2", "--repeats", "1"])
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first.startswith("jaxfer ") and "images/s a core" in first
    assert math.isfinite(float(first.split()[1]))
    assert last.startswith("4 images, batches of 2, 1 repeats")


@pytest.mark.parametrize(("arg", "published"), [("vit", 86_567_656), ("resnet", 25_557_032)])
def test_the_models_of_the_startup_script_are_those_of_their_papers(arg, published):
    config = script("startup").get_config(arg)
    (stage,) = make_stages(resolve(config), *make_port(resolve(config), classes=4))
    width = {"vit": 768, "resnet": 2048}[arg]  # published with 1000 classes
    assert sum(math.prod(leaf.shape) for leaf in stage.leaves().values()) == published - (1000 - 4) * (width + 1)


def test_the_startup_script_starts_each_config_twice_on_a_cache_of_its_own(monkeypatch, capsys):
    startup, asked = script("startup"), []

    def start(config, overrides, cache):
        first = cache not in [before for *_, before in asked]
        asked.append((config, overrides, cache))
        return {"compile_seconds": 8.0 if first else 2.0, "input_seconds": 0.5, "processor_seconds": 10.0}

    monkeypatch.setattr(startup, "start", start)
    startup.main(["a.py", "b.py:x", "--config.steps=3"])
    lines = capsys.readouterr().out.splitlines()
    assert "| b.py:x | 8.00 s | 2.00 s | 0.25 | 10.0 s | 10.0 s |" in lines
    assert lines[-1].endswith("a.py 0.500 and 0.500 s; b.py:x 0.500 and 0.500 s.")
    assert [(config, overrides) for config, overrides, _ in asked] == [
        (config, ["--config.steps=3"]) for config in ("a.py", "a.py", "b.py:x", "b.py:x")
    ]
