"""Identity, ranges, and the round trip through config.json."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from ml_collections import ConfigDict

import jaxfer.config
from jaxfer.config import override, resolve
from jaxfer.config.experiment import Experiment, ParallelConfig, RunConfig, StageConfig
from jaxfer.data.prepare import DataConfig
from jaxfer.errors import InputError
from jaxfer.training.preflight import preflight

DIGITS = str(Path(__file__).parents[2] / "configs/digits.py")

# Every field that a run may change when it goes on in its folder.
FREE = {
    *("eval_batch_size", "keep_best", "test", "log_every", "save_every", "grace", "profile", "cache", "views", "rooms"),
    *("parallel.mode", "parallel.devices", "parallel.fsdp", "parallel.tensor", "parallel.rules"),
    *("parallel.attention", "recipe", "recipe_options", "filled_by"),  # a recipe's stages count, not its name
}

# Another value for every field; the test fails when a field is added without one.
OTHER = {
    "seed": 1,
    "adds": ("swa",),
    "init": "run:elsewhere",
    "head": "keep",
    "eval_every": 7,
    "eval_batch_size": 7,
    "select": "best",
    "differs": ("image",),
    "monitor": "loss",
    "monitor_mode": "min",
    "patience": 3,
    "min_delta": 0.5,
    "keep_best": 3,
    "test": True,
    "log_every": 7,
    "save_every": 7,
    "grace": 60.0,
    "profile": (1, 2),
    "cache": "off",
    "cache_dtype": "bfloat16",
    "views": 7,
    "rooms": ("elsewhere",),
    "recipe": "lp_ft",
    "recipe_options": {"share": 0.5},
    "filled_by": "lp_ft",
    "parallel.mode": "pmap",
    "parallel.devices": 2,
    "parallel.fsdp": 2,
    "parallel.tensor": 2,
    "parallel.rules": ((".*/kernel", "- fsdp"),),
    "parallel.attention": "plain",
    "data.classes": ("1", "2"),
    "data.labels_per_class": 3,
    "data.labels": 3,
    "data.val_per_class": 3,
    "data.val_fraction": 0.5,
    "data.val_by": "group",
    "data.val_groups": ("ward 3",),
    "data.folds": 5,
    "data.fold": 1,
    "data.augment": ("flip",),
    "data.workers": 2,
    "data.sampling": "balanced",
    "data.sampling_by": "group",
    "data.corrupt": "fog:5",
    "data.repeats": 3,
    "method": "probe",
    "options": {"alpha": 1.0},
    "steps": 7,
    "batch_size": 8,
    "optimizer": "sgd",
    "lr": 0.5,
    "rates": {"head": 0.5, "backbone": 0.25},
    "layer_decay": 0.5,
    "lr_rules": (("stem/.*", 0.5),),
    "weight_decay": 0.5,
    "decay_rules": (("stem/.*", 0.5),),
    "freeze": ("stem/.*",),
    "freeze_units": 1,
    "eval_norms": ("stem/norm",),
    "norms": ((".*", "eval"),),
    "dropout_rules": (("head/drop", 0.5),),
    "schedule": "wsd",
    "schedule_options": (("tail", 0.5),),
    "min_lr": 0.5,
    "warmup": 1,
    "clip": 0.5,
    "clip_mode": "agc",
    "momentum": 0.5,
    "b2": 0.5,
    "momentum_dtype": "bfloat16",
    "compute_dtype": "bfloat16",
    "dtype_rules": (("head", "bfloat16"),),
    "remat": ("block_.*",),
    "accumulate": 2,
}


# What some of them need beside them.
NEEDS = {"clip_mode": {"clip": 0.5}, "patience": {"eval_every": 7}, "min_delta": {"eval_every": 7, "patience": 2}}


def experiment(**overrides) -> Experiment:
    return resolve(override(jaxfer.config.base(), overrides))


def fields(cls, prefix: str = "") -> set[str]:
    return {prefix + field.name for field in dataclasses.fields(cls)}


def two_stages(**stage) -> ConfigDict:
    config = jaxfer.config.base()
    config.stages = ("first", "second")
    config.stage.first = {"method": "probe", "steps": 3}
    config.stage.second = dict(method="full", steps=4, **stage)
    return config


def test_every_field_has_another_value():
    known = fields(RunConfig) | fields(StageConfig) | fields(ParallelConfig, "parallel.") | fields(DataConfig, "data.")
    assert set(OTHER) == known - {"stages", "data.source", "task"}  # `task` is of a named stage alone


ALONE = set(OTHER) - {"options", "recipe_options", "schedule_options", "steps", "data.workers"}


@pytest.mark.parametrize("field", sorted(ALONE))
def test_identity_excludes_exactly_the_free_fields(field):
    needs = NEEDS.get(field, {})
    changed, before = experiment(**needs, **{field: OTHER[field]}).identity(), experiment(**needs).identity()
    assert (changed == before) == (field in FREE)
    if field not in FREE:
        differing = {name for name, value in changed.items() if before.get(name) != value}
        assert differing == {field if field in fields(RunConfig) or "." in field else f"stage.train.{field}"}


@pytest.mark.parametrize(
    ("field", "value", "key"),
    [
        ("model.width", 8, "model.width"),
        ("model.name", "vit", "model.name"),
        ("task.label_smoothing", 0.1, "task.label_smoothing"),
        ("task.name", "regression", "task.name"),
        ("data.source", "synthetic", "data.source"),
        ("options", {"beta": 1.0}, "stage.train.options"),
    ],
)
def test_identity_holds_every_choice(field, value, key):
    changed = experiment(**{"method": "l2sp", field: value}).identity()
    assert changed[key] != experiment(method="l2sp").identity().get(key)


def test_groups_that_are_not_set_are_in_no_record():
    source = {"data.source": "folder", "data.path": "photos"}
    plain, grouped = experiment(**source), experiment(**source, **{"data.group": ("sex",)})
    assert not {"group", "group_table"} & plain.to_dict()["data"].keys(), "as before"
    assert not {"data.group", "data.group_table"} & plain.identity().keys()
    assert grouped.identity()["data.group"] == ("sex",) and "group_table" not in grouped.to_dict()["data"]
    for one in (plain, grouped):
        assert resolve(ConfigDict(one.to_dict())) == one


def test_a_schedules_options_are_its_own():
    short, long = (experiment(schedule="wsd", schedule_options=(("tail", tail),)) for tail in (0.1, 0.3))
    differing = {name for name, value in short.identity().items() if long.identity()[name] != value}
    assert differing == {"stage.train.schedule_options"}
    assert not {"stage.train.schedule_options", "stage.train.min_lr"} & set(experiment().identity()), "as before"
    config = two_stages(schedule="linear")
    config.update(schedule="wsd", schedule_options=(("tail", 0.1),))
    (_, first), (_, second) = resolve(config).stages
    assert (first.schedule_options, second.schedule_options) == ((("tail", 0.1),), ())


def test_a_schedules_default_written_out_is_the_same_experiment():
    written = {"schedule_options": (("tail", 0.2),)}
    ready = [
        preflight(override(jaxfer.config.base(), {"schedule": "wsd", "lr": 0.1, **more})) for more in ({}, written)
    ]
    assert ready[0].experiment == ready[1].experiment
    assert ready[0].stages[0].hparams["schedule/tail"] == 0.2


def test_views_count_where_they_are_kept():
    two, three = (experiment(cache="views", views=views).identity() for views in (2, 3))
    assert {name for name in two if two[name] != three[name]} == {"views"}
    off, plain = experiment(cache="off", cache_dtype="bfloat16"), experiment()
    assert off.identity() == plain.identity()


def test_identity_has_the_sources_own_options():
    a, b = (experiment(**{"data.source": "synthetic", "data.noise": noise}) for noise in (1.0, 2.0))
    assert {name for name, value in a.identity().items() if b.identity()[name] != value} == {"data.noise"}


def test_a_stage_s_own_task_is_part_of_the_identity():
    config = two_stages()
    before = resolve(config)
    config.stage.first.task = "multilabel"
    after = resolve(config)
    assert after.identity() == {**before.identity(), "stage.first.task": "multilabel"}
    assert "stage.first.task" not in before.identity()
    assert resolve(ConfigDict(after.to_dict())) == after


def test_how_validation_is_held_out_is_stored_where_it_is_set():
    plain, fold = experiment(), experiment(**{"data.folds": 5, "data.fold": 2})
    newer = {"val_by", "val_groups", "folds", "fold"}
    assert not newer & plain.to_dict()["data"].keys() and not {f"data.{name}" for name in newer} & set(plain.identity())
    assert fold.identity() == {**plain.identity(), "data.folds": 5, "data.fold": 2}
    assert resolve(ConfigDict(fold.to_dict())) == fold


def test_a_sources_option_that_is_not_set_is_left_out():
    plain, stored = (
        experiment(**{"data.source": "folder", "data.path": "x", **more})
        for more in ({}, {"data.exif_orientation": False, "data.bad_rows": "skip"})
    )
    assert not {"exif_orientation", "bad_rows"} & plain.to_dict()["data"].keys()
    assert stored.identity() == {**plain.identity(), "data.exif_orientation": False, "data.bad_rows": "skip"}
    assert resolve(ConfigDict(stored.to_dict())) == stored
    config = jaxfer.config.base()
    config.stream.s = {"source": "folder", "path": "x", "task": "classification"}
    assert "stream.s.bad_rows" not in resolve(config).identity()


def test_a_tasks_loss_is_stored_where_it_is_set():
    plain = experiment()
    assert plain.to_dict()["task"] == {"name": "classification", "label_smoothing": 0.0}
    assert experiment(**{"task.loss": "none", "task.class_weights": None}) == plain
    focal = experiment(**{"task.gamma": "1.5", "task.loss": "focal", "task.class_weights": "1,2,1,1,1,1,1,1,1,1"})
    assert focal.task_hparams == {"label_smoothing": 0.0, "gamma": 1.5}
    stored = {"task.loss": "focal", "task.gamma": 1.5, "task.class_weights": (1.0, 2.0, *[1.0] * 8)}
    assert focal.identity() == {**plain.identity(), **stored}
    assert resolve(ConfigDict(json.loads(json.dumps(focal.to_dict())))) == focal


def test_a_number_of_labels_is_stored_where_it_is_set():
    stream = {"source": "digits", "task": "classification"}
    plain, few = experiment(), experiment(**{"data.labels": 7})
    assert "data.labels" not in plain.identity() and "labels" not in plain.to_dict()["data"]
    assert few.identity() == {**plain.identity(), "data.labels": 7}
    assert resolve(ConfigDict(few.to_dict())) == few
    config = jaxfer.config.base()
    config.stream.s = stream
    beside = resolve(config).identity()
    config.stream.s = {**stream, "labels": 7}
    assert "stream.s.labels" not in beside
    assert resolve(config).identity() == {**beside, "stream.s.labels": 7}


def test_only_the_last_stage_may_become_longer():
    before = resolve(two_stages()).identity()
    longer = override(two_stages(), {"stage.second.steps": 9})
    assert resolve(longer).identity() == before
    other = resolve(override(two_stages(), {"stage.first.steps": 9})).identity()
    assert {name for name in before if other[name] != before[name]} == {"stage.first.steps"}
    assert experiment(steps=9).identity() == experiment().identity()


def test_identity_tells_stages_apart():
    names = resolve(two_stages()).identity()["stages"]
    assert names == ("first", "second")
    assert experiment().identity()["stages"] == ("train",)


@pytest.mark.parametrize("arg", ["", "pretrain", "full", "probe", "lora", "lp_ft", "lora,tiny", "lp_ft,tiny"])
def test_round_trip_of_the_digits_configs(arg):
    before = resolve(jaxfer.config.load(f"{DIGITS}:{arg}"))
    assert resolve(ConfigDict(json.loads(json.dumps(before.to_dict())))) == before


@pytest.mark.parametrize(
    "config",
    [
        jaxfer.config.base(),
        override(jaxfer.config.base(), {k: OTHER[k] for k in OTHER if k not in ("lr", "options", "rates")}),
        override(jaxfer.config.base(), {"rates": OTHER["rates"], "lr_rules": OTHER["lr_rules"]}),
        override(jaxfer.config.base(), {"method": "lora", "options.targets": "stem/.*,block_0/.*", "options.rank": 2}),
        override(jaxfer.config.base(), {"model.name": "vit", "data.source": "npz", "data.path": "x.npz", "lr": 1}),
        override(jaxfer.config.base(), {"task.name": "regression", "data.source": "synthetic", "data.image": "4,4,1"}),
        two_stages(rates={"head": 0.1, "backbone": 0.2}),
        two_stages(lr=0.1, options={}, freeze=["stem/.*"]),
    ],
    ids=str,
)
def test_round_trip(config):
    before = resolve(config)
    after = resolve(ConfigDict(json.loads(json.dumps(before.to_dict()))))
    assert after == before
    assert after.identity() == before.identity()
    assert hash(after.model) == hash(before.model) and hash(after.source) == hash(before.source)


def test_init_options_are_stored_where_they_are_set():
    """A run without them keeps the config.json and the identity that it had before there were any."""
    plain = experiment(init="x.pth")
    assert "init_options" not in plain.to_dict() and not any("init_options" in name for name in plain.identity())
    assert plain.identity() == experiment(init="x.pth", **{"init_options.pick": ""}).identity()
    picked = experiment(init="x.pth", **{"init_options.pick": "ema/shadow", "init_options.prefix": "net."})
    stored = json.loads(json.dumps(picked.to_dict()))
    assert stored["init_options"] == {"pick": "ema/shadow", "prefix": "net."}
    assert resolve(ConfigDict(stored)) == picked
    assert picked.identity()["init_options.pick"] == "ema/shadow" and picked.identity() != plain.identity()
    assert experiment(init="scratch", **{"init_options.pick": "ema"}).identity() == experiment().identity()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"init_options.pik": "ema"}, r"^unknown field config\.init_options\.pik; nearest: .*'init_options.pick'"),
        ({"init_options.pick": 3}, r"^config\.init_options\.pick: expected str, found 3 \(int\)$"),
        ({"init_options.pick": "ema", "init": "run:elsewhere"}, "init_options apply only to a checkpoint"),
        ({"init_options": "ema"}, "config.init_options is a section; set a field of it: .*config.init_options.pick"),
    ],
)
def test_init_options_that_make_no_sense(overrides, message):
    with pytest.raises(InputError, match=message):
        experiment(**overrides)


def test_init_options_of_a_file_are_checked():
    config = jaxfer.config.base()
    config.update(init="x.pth", init_options=dict(pick="ema"))
    assert resolve(config).init_options.pick == "ema"
    with config.unlocked(), config.ignore_type():
        config.init_options = dict(pick=["a"])
    with pytest.raises(InputError, match=r"config\.init_options\.pick: expected str, found"):
        resolve(config)


def test_one_stage_without_a_name_stays_one():
    stored = experiment(steps=3).to_dict()
    assert (stored["steps"], stored["stages"]) == (3, ()) and "stage" not in stored
    assert resolve(override(ConfigDict(stored), {"steps": 5})).stages[0][1].steps == 5


def test_ranges_name_the_stage():
    with pytest.raises(InputError, match=r"^config\.stage\.second\.warmup: expected at most the 4 steps, found 5$"):
        resolve(two_stages(warmup=5))
    with pytest.raises(InputError, match=r"^config\.stage\.second\.optimizer: expected one of adamw, adam, sgd, "):
        resolve(two_stages(optimizer="adamx"))
    with pytest.raises(InputError, match=r"^config\.warmup: expected at most the 2 steps, found 5$"):
        experiment(warmup=5, steps=2)


def test_steps_of_all_stages_fit_a_counter():
    config = two_stages()
    config.stage.first.steps = config.stage.second.steps = 2**30 + 1
    with pytest.raises(InputError, match="expected at most 2147483647 steps in total"):
        resolve(config)
