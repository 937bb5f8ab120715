"""Arms that start from checkpoints of other families, or train on other data: judged on the same examples."""

from __future__ import annotations

import json

import numpy as np
import pytest

import jaxfer
from jaxfer.comparison.protocol import make_design
from jaxfer.comparison.starts import _same
from jaxfer.data.split import Array, Split
from jaxfer.errors import InputError
from tests.comparison.example import write

OTHER = """
    def get_config(arg=""):
        config = jaxfer.config.base()
        config.model = dict(name="resnet", stage_sizes=(1,), width=4, stem="cifar", image=(8, 8, 1))
        config.data = dict(source="digits", classes=("5", "6", "7"), val_per_class=10, labels_per_class=3)
        config.update(batch_size=9, steps=4, save_every=0, head="reset", init="sibling:source")
        config.compare.update(methods=("full", "full@patches", "full@shifted"), seeds=2, trials=1)
        vit = dict(name="vit", width=8, layers=1, heads=2, mlp_width=8, patch=4, image=(8, 8, 1))
        config.compare.sources.patches = dict(init="sibling:patches", model=vit)
        config.compare.sources.shifted = dict(data=dict(augment=("shift",)))
        if arg:
            config.data.labels_per_class = 10
            config.init = "scratch"
        if arg == "patches":
            config.model = vit
        return config

    def sweep():
        yield Cell(name="source", arg="source")
        yield Cell(name="patches", arg="patches")
"""


BARE = """
    def get_config(arg=""):
        config = jaxfer.config.base()
        config.model = dict(name="resnet")
        config.data = dict(source="digits", classes=("5", "6", "7"), val_per_class=10, labels_per_class=3)
        config.update(batch_size=9, steps=4, head="reset", init="sibling:source")
        config.compare.update(methods=("full", "full@other"), seeds=1, trials=1)
        config.compare.sources.other = "sibling:other"
        if arg:
            config.model = dict(name="resnet", stage_sizes=(1,), width=4, stem="cifar", image=(8, 8, 1), mean=(0.25,))
            config.init = "scratch"
        return config

    def sweep():
        yield Cell(name="source", arg="source")
        yield Cell(name="other", arg="source", overrides={"seed": 1})
"""


def test_every_arm_has_the_model_of_the_source_where_the_config_leaves_it_out(tmp_path):
    design = make_design(write(tmp_path, BARE), {})
    jobs = {job.cell.group: job.config for job in design.tuning.values()}
    assert {*jobs} == {"scratch", "full", "full@other"} and jobs["scratch"].init == "scratch"
    for config in (design.ready.experiment, *jobs.values()):
        assert config.to_dict()["model"] == design.sources[0].config.model.to_dict()


def test_arms_are_checkpoints_of_other_families_and_training_data(tmp_path):
    found = jaxfer.compare(write(tmp_path, OTHER), tmp_path / "out", quiet=True)
    assert [finding.arm for finding in found.findings] == ["scratch", "full", "full@patches", "full@shifted"]
    cells = json.loads((tmp_path / "out" / "cells.json").read_text())
    configs = {
        cell["name"]: json.loads((tmp_path / "out" / cell["folder"] / "config.json").read_text()) for cell in cells
    }
    of = {arm: configs[f"{arm} 3 labels trial 0 seed 1"] for arm in ("scratch", "full", "full@patches", "full@shifted")}
    assert [each["model"]["name"] for each in of.values()] == ["resnet", "resnet", "vit", "resnet"]
    assert [each["data"]["augment"] for each in of.values()] == [[], [], [], ["shift"]]
    assert of["scratch"]["init"] == "scratch" and of["full"]["init"] == of["full@shifted"]["init"]
    assert of["full@patches"]["init"] not in ("scratch", of["full"]["init"])
    starts = json.loads((tmp_path / "out" / "protocol.json").read_text())["starts"]
    assert starts["shifted"] == {"data.augment": ["shift"]} and starts["patches"]["model.name"] == "vit"


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"compare.sources.shifted.data.classes": "5,6,8"}, "its classes are 5, 6, 8, not 5, 6, 7, so its scores"),
        ({"compare.sources.shifted.data.noise": "9"}, "its val examples are not those of the other arms"),
        ({"compare.sources.shifted.data.labels_per_class": "2"}, "the same for every arm; set config.data.labels_per"),
        ({"compare.sources.shifted.steps": "2"}, "a source can't set this"),
        ({"compare.sources.patches.model.patch": "3"}, "config.compare.sources.patches: "),
    ],
)
def test_what_can_not_be_compared_is_refused_in_a_line(tmp_path, fields, line):
    with pytest.raises(InputError) as raised:
        make_design(write(tmp_path, OTHER), fields)
    assert line in str(raised.value) and str(raised.value).startswith("config.compare.sources.")


def test_the_same_examples():
    values = np.arange(12.0).reshape(4, 3)
    one = Split.whole(features=Array(values, "features"), label=Array(np.array([0, 1, 0, 1]), "class"))
    assert _same(one, one) and _same(one.take(np.array([1, 3])), one.take(np.array([1, 3])))
    assert not _same(one, one.take(np.array([0, 1, 2]))) and not _same(one, one.take(np.array([1, 0, 2, 3])))
    picked = Split.whole(features=Array(values[1:3], "features"), label=Array(np.array([1, 0]), "class"))
    assert _same(one.take(np.array([1, 2])), picked), "the same content elsewhere"
    other = Split.whole(features=Array(values, "features"), label=Array(np.array([0, 1, 1, 1]), "class"))
    assert not _same(one, other)
