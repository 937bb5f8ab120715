"""Arms and their trials: as many for each, the default first, the same every time."""

from __future__ import annotations

import pytest

import jaxfer.config
from jaxfer.comparison.arms import arm_config, arms, sources
from jaxfer.config.experiment import CompareConfig
from jaxfer.errors import InputError
from jaxfer.registry import MODELS
from tests.experiments import tiny_config
from tests.models.tiny import TINY


def port(case):
    model, options = TINY[case]
    return MODELS.make(model, **options)


def found(**fields):
    return {arm.name: arm for arm in arms(CompareConfig(**fields), {"": port("resnet_basic")})}


def test_every_arm_has_as_many_trials_and_its_default_first():
    compared = found(methods=("probe", "full", "probe+full", "lora", "l2sp"), trials=4)
    assert list(compared) == ["scratch", "probe", "full", "probe+full", "lora", "l2sp"]
    for arm in compared.values():
        assert len(arm.trials) == 4 == len({tuple(sorted(trial.items())) for trial in arm.trials})
    assert [trial["lr"] for trial in compared["probe"].trials] == [1e-2, 1e-3, 3e-3, 3e-2]
    assert compared["scratch"].trials == ({"lr": 1e-3}, {"lr": 3e-4}, {"lr": 3e-3}, {"lr": 1e-2})
    assert compared["probe+full"].trials[0] == {"probe.lr": 1e-2, "full.lr": 1e-3}
    assert compared["l2sp"].trials[0] == {"lr": 1e-3, "alpha": 0.1, "beta": 0.01}
    assert compared == found(methods=("probe", "full", "probe+full", "lora", "l2sp"), trials=4)


def test_the_configs_words_come_before_the_methods_own():
    stage = {"probe": {"lr": 0.5}, "l2sp": {"options": {"alpha": 7}}}
    compared = found(methods=("probe", "l2sp"), trials=1, stage=stage)
    assert compared["probe"].trials == ({"lr": 0.5},) and compared["l2sp"].trials[0]["alpha"] == 7.0
    compared = found(methods=("probe",), trials=1, stage={"lora": {"options": {"rank": 2}}})
    assert list(compared) == ["scratch", "probe"], "what is said of a method that is not compared does no harm"
    compared = found(methods=("probe",), trials=3, grid={"probe": {"lr": [1e-2, 2.0, 3.0]}})
    assert compared["probe"].trials == ({"lr": 1e-2}, {"lr": 2.0}, {"lr": 3.0})


def test_a_head_fitted_at_once_has_the_same_setting_in_each_trial():
    stage = {"probe": {"options": {"fit": "ridge"}}}
    compared = found(methods=("probe", "probe+full"), trials=2, stage=stage)
    assert compared["probe"].trials == ({}, {})
    assert compared["probe+full"].trials[0] == {"full.lr": 1e-3}
    with pytest.raises(InputError, match=r"config.compare.grid.probe.lr: probe can tune nothing; remove it"):
        found(methods=("probe",), trials=2, stage=stage, grid={"probe": {"lr": [1e-2]}})


@pytest.mark.parametrize("steps", [6, 7])
def test_an_arms_config(steps):
    stage = {"full": {"layer_decay": 0.5}, "lora": {"options": {"rank": 2}}}
    given = CompareConfig(methods=("probe+full", "full", "lora"), trials=2, stage=stage)
    compared = {arm.name: arm for arm in arms(given, {"": port("resnet_basic")})}
    base = tiny_config("resnet_basic", steps=steps, lr=0.123, method="lora", init="run:x", options=dict(rank=3))
    made = {
        name: jaxfer.config.resolve(arm_config(base, given, arm, arm.trials[1], 3, 2)) for name, arm in compared.items()
    }
    for name, experiment in made.items():
        assert experiment.run.init == ("scratch" if name == "scratch" else "run:x")
        assert (experiment.run.seed, experiment.data.labels_per_class) == (3, 2)
        assert sum(stage.steps for _, stage in experiment.stages) == steps
    (_, probe), (_, full) = made["probe+full"].stages
    assert (probe.method, probe.steps, full.method, full.steps) == ("probe", steps // 2, "full", steps - steps // 2)
    assert (probe.layer_decay, full.layer_decay) == (1.0, 0.5)
    trial = compared["probe+full"].trials[1]
    assert (probe.lr, full.lr) == (trial["probe.lr"], trial["full.lr"])
    assert made["lora"].stages[0][1].options["rank"] == 2
    assert made["scratch"].stages[0][1].layer_decay == 1.0, "what helps fine-tuning is not put on scratch"
    assert made["full"].stages[0][1].options == {} and made["full"].stages[0][1].layer_decay == 0.5


def test_an_arm_may_start_from_another_source():
    named = {"textures": "run:y", "unused": "run:z"}
    given = CompareConfig(methods=("full", "full@textures", "probe+full@textures"), trials=2, sources=named)
    assert sources(given) == ("textures",)
    ports = {"": port("resnet_basic"), "textures": port("resnet_basic")}
    compared = {arm.name: arm for arm in arms(given, ports)}
    assert compared["full@textures"].trials == compared["full"].trials, "the same method, tuned alike"
    found = {name: arm.source for name, arm in compared.items()}
    assert found == {"scratch": "", "full": "", "full@textures": "textures", "probe+full@textures": "textures"}
    with pytest.raises(InputError, match="the source of 'full@texture' is not in .*; nearest: 'textures'"):
        sources(CompareConfig(methods=("full@texture",), sources=named))


def test_sources_are_set_from_the_command_line():
    config = jaxfer.config.override(jaxfer.config.base(), {"compare.sources.other": "run:y"})
    assert jaxfer.config.comparison(config).sources == {"other": "run:y"}
    fields = {"model.name": "vit", "model.width": "8", "data.augment": "shift", "init": "run:z"}
    config = jaxfer.config.override(
        jaxfer.config.base(), {f"compare.sources.other.{name}": value for name, value in fields.items()}
    )
    assert jaxfer.config.comparison(config).sources["other"] == {
        "init": "run:z",
        "model": {"name": "vit", "width": 8},
        "data": {"augment": ("shift",)},
    }
    with pytest.raises(InputError, match="unknown field config.model.widht"):
        jaxfer.config.override(config, {"compare.sources.other.model.widht": "8"})
    with pytest.raises(InputError, match="this source is 'run:y' .*; set config.compare.sources.one.init"):
        one = jaxfer.config.override(jaxfer.config.base(), {"compare.sources.one": "run:y"})
        jaxfer.config.override(one, {"compare.sources.one.head": "keep"})


def test_hparams_of_add_ons_are_tuned_where_the_config_says_so():
    stage = {"full": {"adds": ("mixup",), "options": {"mix": "pair", "mixup_alpha": 0.8}}}
    plain = found(methods=("full",), trials=2, stage=stage)["full"]
    assert {name for trial in plain.trials for name in trial} == {"lr"}
    tuned = found(methods=("full",), trials=2, stage=stage, grid={"full": {"mixup_alpha": (0.2,), "lr": ()}})["full"]
    assert [trial["mixup_alpha"] for trial in tuned.trials] == [0.8, 0.2]
