"""What real checkpoints say of their inputs, against configs that read them otherwise or that say nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from etils import epath

import jaxfer.config
from jaxfer.diagnosis import preprocessing
from jaxfer.diagnosis.opened import Opened
from jaxfer.training.preflight import preflight
from tests.data import shared


def checked(init, **model):
    """(kind, severity, {option: what is said}) of each finding; no feature is computed."""
    config = jaxfer.config.base()
    config.update(init=init, head="reset", method="probe", batch_size=8, steps=60, lr=1e-2)
    config.differs = tuple(name for name in ("image", "resize") if name in model and "mobilenet" in init)
    config.model = dict(name="auto") | model
    config.data = dict(source="folder", path=shared("vision/pets_bias"), val_per_class=20)
    ready = preflight(config)
    place = epath.Path("run")
    opened = Opened(config=config, ready=ready, splits={}, place=place, overrides={}, say=print)
    found = [*preprocessing.check(opened)]
    assert all(f.value == len(f.examples) and f.threshold == 1 for f in found if f.kind == "preprocessing")
    return [(f.kind, f.severity, {e.name: e.says for e in f.examples}) for f in found]


def test_an_announced_difference():
    """The file states 224 pixels cut out of 256; 96 are less than half of them, 160 are not."""
    init = shared("weights/mobilenet_v1_0.75_224")
    assert checked(init) == []
    assert checked(init, image=(96, 96, 3), resize=(96,)) == [
        ("preprocessing", "warning", {"image": "(224, 224, 3) there, (96, 96, 3) here"}),
        ("preprocessing", "note", {"resize": "(256,) there, (96,) here"}),
    ]
    assert checked(init, image=(160, 160, 3), resize=(256,)) == [
        ("preprocessing", "note", {"image": "(224, 224, 3) there, (160, 160, 3) here"}),
    ]


def test_what_no_file_states(tmp_path):
    """Of CIFAR-10's network the file states mean and deviation; without it, they too are assumed."""
    files = Path(shared("weights/cifar10_resnet20"))
    given = dict(name="resnet", stem="cifar", image=(32, 32, 3))
    usual = {"interpolation": "stated nowhere, 'bilinear' here", "resize": "stated nowhere, () here"}
    assert checked(str(files), **given) == [("preprocessing", "note", usual)]
    shutil.copy(files / "model.safetensors", tmp_path)
    config = json.loads((files / "config.json").read_text())
    del config["input"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    warned, noted = checked(str(tmp_path), **given)
    assert warned[:2] == ("preprocessing", "warning") and warned[2].keys() == {"mean", "std"}
    assert noted == ("preprocessing", "note", usual)
    assert checked(str(tmp_path), mean=(0.5,), std=(0.5,), interpolation="bilinear", resize=(), **given) == []
