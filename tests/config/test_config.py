"""Config files and overrides: what a field takes, what naming another model or method resets, and the traps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ml_collections import ConfigDict

import jaxfer.config
from jaxfer.config import base, load, override, packaged, resolve, words
from jaxfer.errors import InputError
from tests.experiments import tiny_config


def first_stage(config: ConfigDict):
    return resolve(config).stages[0][1]


def staged(**common) -> ConfigDict:
    config = base()
    config.update(**common)
    config.stages = ("a", "b")
    return config


@pytest.mark.parametrize(
    ("field", "text", "wanted"),
    [
        ("steps", "7", 7),
        ("lr", "1e-3", 0.001),
        ("lr", "3", 3.0),
        ("lr", "none", None),
        ("test", "true", True),
        ("test", "False", False),
        ("init", "run:a/b,c", "run:a/b,c"),
        ("freeze", "stem/.*, block_0/.*", ("stem/.*", "block_0/.*")),
        ("freeze", "(stem|head)/.*", ("(stem|head)/.*",)),
        ("freeze", "", ()),
        ("lr_rules", "(('stem/.*', 0.1),)", (("stem/.*", 0.1),)),
        ("stages", "", ()),
        ("rates", "{'head': 1, 'backbone': 0.5}", {"head": 1.0, "backbone": 0.5}),
        ("rates.head", "1", 1.0),
        ("parallel.devices", "2", 2),
        ("model.width", "8", 8),
        ("model.stage_sizes", "1,2", (1, 2)),
        ("model.stage_sizes", "(3,)", (3,)),
        ("model.image", "8,8,1", (8, 8, 1)),
        ("model.mean", "0.5", (0.5,)),
        ("model.stride_in_1x1", "true", True),
        ("data.classes", "5,6", ("5", "6")),
        ("data.val_fraction", "0.25", 0.25),
        ("task.label_smoothing", "0.1", 0.1),
    ],
)
def test_override_by_the_fields_type(field, text, wanted):
    value = override(base(), {field: text})
    for part in field.split("."):
        value = value[part]
    value = value.to_dict() if isinstance(value, ConfigDict) else value
    assert value == wanted and type(value) is type(wanted)


def test_values_are_taken_as_they_are():
    config = override(base(), {"lr": 1, "freeze": ["stem/.*"], "model.image": [8, 8, 1]})
    assert (config.lr, config.freeze, config.model.image) == (1.0, ("stem/.*",), (8, 8, 1))


def test_the_given_config_is_left_alone():
    config = base()
    override(config, {"steps": 7, "model.name": "vit", "options.alpha": 1.0})
    assert (config.steps, config.model.name, dict(config.options)) == (100, "resnet", {})


def test_trap_config_lr_1():
    # ml_collections would keep the int and refuse 0.1, and never lets a list be overridden.
    config = base()
    config.lr = 1
    config.model.std = [1, 1, 1]
    config.model.stage_sizes = [1, 1]
    config = override(config, {"lr": "0.1", "model.stage_sizes": "2,2,2", "model.std": "0.5"})
    experiment = resolve(config)
    assert experiment.stages[0][1].lr == 0.1
    assert dict(experiment.model.options)["stage_sizes"] == (2, 2, 2)
    assert dict(experiment.model.options)["std"] == (0.5,)
    assert first_stage(override(config, {"lr": "none"})).lr is None


def test_lists_in_a_file_become_tuples():
    config = base()
    config.method = "lora"
    config.options.targets = ["block_0/.*"]
    config.model.stage_sizes = [1, 1]
    config.data.classes = ["1", "2"]
    experiment = resolve(config)
    assert experiment.stages[0][1].options == {**LORA, "targets": ("block_0/.*",)}
    assert dict(experiment.model.options)["stage_sizes"] == (1, 1)
    assert experiment.data.classes == ("1", "2")


def test_ints_in_a_file_become_floats():
    config = base()
    config.update(lr=1, clip=2)
    config.method = "lora"
    config.options.alpha = 16
    stage = first_stage(config)
    assert [type(value) for value in (stage.lr, stage.clip, stage.options["alpha"])] == [float] * 3


def test_naming_another_model_resets_its_options():
    config = base()
    config.model = {"name": "resnet", "width": 8, "stage_sizes": (1,)}
    assert dict(override(config, {"model.name": "vit"}).model) == {"name": "vit"}
    assert override(config, {"model.name": "resnet"}).model.width == 8
    other = override(config, {"model.layers": "2", "model.name": "vit", "model.heads": "3"})  # in any order
    assert dict(other.model) == {"name": "vit", "layers": 2, "heads": 3}


def test_naming_another_source_resets_its_own_options_only():
    config = base()
    config.data = {"source": "synthetic", "examples": 40, "noise": 0.5, "val_per_class": 3, "augment": ("flip",)}
    data = override(config, {"data.source": "npz", "data.path": "x.npz"}).data.to_dict()
    assert data == {"source": "npz", "path": "x.npz", "val_per_class": 3, "augment": ("flip",)}


def test_naming_another_task_resets_its_options():
    config = base()
    config.task = {"name": "classification", "label_smoothing": 0.1}
    assert dict(override(config, {"task.name": "regression"}).task) == {"name": "regression"}
    assert resolve(config).task_hparams == {"label_smoothing": 0.1}


def test_naming_another_method_resets_its_options():
    config = base()
    config.method = "lora"
    config.options.rank = 4
    assert dict(override(config, {"method": "probe"}).options) == {}
    assert dict(override(config, {"method": "lora"}).options) == {"rank": 4}
    other = override(config, {"options.alpha": "0.5", "method": "l2sp"})
    assert (other.method, dict(other.options)) == ("l2sp", {"alpha": 0.5})


# Its defaults.
LORA = dict(rank=8, alpha=16.0, targets=(), scaling="standard", start="zero", a_start="normal", b_rate=1.0)


def test_naming_another_method_of_a_stage_resets_its_options():
    config = staged(method="full")
    config.stage.a = {"method": "lora", "options": {"rank": 4}}
    assert first_stage(config).options == {**LORA, "rank": 4}
    assert first_stage(override(config, {"stage.a.method": "probe"})).options == {}
    assert first_stage(override(config, {"stage.a.options.alpha": "2"})).options == {**LORA, "rank": 4, "alpha": 2.0}


def test_stages_can_be_named_and_set_at_once():
    config = override(base(), {"stage.b.options.rank": "3", "stage.b.method": "lora", "stages": "a,b", "steps": "5"})
    stages = dict(resolve(config).stages)
    assert [(stage.method, stage.steps) for stage in stages.values()] == [("full", 5), ("lora", 5)]
    assert stages["b"].options == {**LORA, "rank": 3}


def test_a_stage_takes_what_it_does_not_set_from_the_config():
    config = staged(steps=7, weight_decay=0.5, freeze=("stem/.*",))
    config.stage.a = {"steps": 3}
    a, b = (stage for _, stage in resolve(config).stages)
    assert (a.steps, b.steps) == (3, 7)
    assert (a.weight_decay, a.freeze) == (b.weight_decay, b.freeze) == (0.5, ("stem/.*",))


def test_common_options_are_the_common_methods():
    config = staged(method="lora")
    config.options.rank = 4
    config.stage.a = {"method": "probe"}
    a, b = (stage for _, stage in resolve(config).stages)
    assert (a.options, b.options) == ({}, {**LORA, "rank": 4})


def test_the_rate_nearest_to_the_stage_counts():
    config = staged(lr=0.5)
    config.stage.a = {"rates": {"head": 1.0, "backbone": 2.0}}
    a, b = (stage for _, stage in resolve(config).stages)
    assert (a.lr, a.rates, b.lr, b.rates) == (None, {"head": 1.0, "backbone": 2.0}, 0.5, {})
    config = staged()
    config.rates = {"head": 1.0, "backbone": 2.0}
    config.stage.a = {"lr": 0.5}
    a, b = (stage for _, stage in resolve(config).stages)
    assert (a.lr, a.rates, b.lr, b.rates) == (0.5, {}, None, {"head": 1.0, "backbone": 2.0})


@pytest.mark.parametrize(
    ("field", "stage"),
    [("lr", {"rates": {"head": 1.0}}), ("lr", {"lr": 1.0}), ("steps", {"steps": 3}), ("method", {"method": "probe"})],
)
def test_an_override_that_every_stage_hides_is_an_error(field, stage):
    config = staged()
    config.stage.a = config.stage.b = stage
    value = {"lr": "0.1", "steps": "5", "method": "lora"}[field]
    with pytest.raises(
        InputError, match=rf"^config\.{field} has no effect: every stage sets its own; use config\.stage"
    ):
        override(config, {field: value})
    del config.stage["b"]
    override(config, {field: value})  # the other stage takes it


def test_an_unset_field_of_the_stored_config_can_be_overridden():
    config = ConfigDict(resolve(base()).to_dict())
    assert first_stage(override(config, {"method": "lora", "options.rank": "2"})).options == {**LORA, "rank": 2}


def test_fields_that_do_not_exist_cannot_be_set_in_a_file():
    with pytest.raises(AttributeError, match="stepz"):
        base().stepz = 3


def test_a_file_may_refer_to_its_fields():
    config = base()
    config.warmup = config.get_ref("steps") // 10
    assert first_stage(override(config, {"steps": "50"})).warmup == 10  # resolved before the override
    config.steps = 50
    assert first_stage(config).warmup == 5


def test_load_calls_get_config_with_the_argument(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "import jaxfer.config\n\ndef get_config(arg=''):\n    config = jaxfer.config.base()\n"
        "    config.init = 'run:' + arg\n    return config\n"
    )
    assert load(str(file)).init == "run:"
    assert load(f"{file}:a,b:c", {"steps": "3"}).init == "run:a,b:c"
    assert load(str(file), {"steps": "3"}).steps == 3


def test_an_argument_that_is_never_read_is_said(tmp_path, capsys):
    head = "import jaxfer.config\n\n"
    for i, (body, read) in enumerate(
        [
            ("def get_config(arg=''):\n    return jaxfer.config.base()", False),
            ("def get_config(arg):\n    jaxfer.config.words(arg, ('a',))\n    return jaxfer.config.base()", True),
            ("def get_config(arg=''):\n    [1 for _ in '1' if arg]\n    return jaxfer.config.base()", True),
            ("def get_config(arg=''):\n    name = lambda: arg\n    return jaxfer.config.base()", True),
            ("def get_config(*args):\n    return jaxfer.config.base()", True),
        ]
    ):
        file = tmp_path / f"{i}.py"
        file.write_text(head + body)
        load(f"{file}:a")
        line = f"warning: {file}:a: get_config never reads its argument, so 'a' changes nothing but"
        assert capsys.readouterr().err == ("" if read else f"{line} the default folder\n"), body


def test_a_frozen_config_is_taken(tmp_path):
    file = tmp_path / "frozen.py"
    file.write_text(
        "import jaxfer.config\nfrom ml_collections import FrozenConfigDict\n\n"
        "def get_config(arg=''):\n    return FrozenConfigDict(jaxfer.config.base())\n"
    )
    assert resolve(load(str(file), {"steps": "3", "lr": "0.5", "freeze": "stem/.*"})) == resolve(
        override(base(), {"steps": 3, "lr": 0.5, "freeze": ("stem/.*",)})
    )


def test_a_packages_folder_or_else_a_name():
    assert packaged("pytest/data", "hub/name") == f"{Path(pytest.__file__).parent}/data"
    assert packaged("no_such_package/model", "hub/name") == "hub/name"


def test_words():
    assert words("lora,tiny", ("lora", "tiny", "full")) == {"lora", "tiny"}
    assert words("", ("lora",)) == words(",", ("lora",)) == frozenset()
    with pytest.raises(InputError, match="^unknown config argument 'lroa'; nearest: 'lora'$"):
        words("lroa,tniy", ("lora", "tiny"))


def test_base_resolves_to_the_documented_defaults():
    experiment = resolve(jaxfer.config.base())
    names = (experiment.model.name, experiment.task.name, experiment.data.source)
    assert names == ("resnet", "classification", "digits")
    ((name, stage),) = experiment.stages
    assert (name, stage.method, stage.lr) == ("train", "full", None)
    assert (stage.optimizer, stage.schedule, stage.steps, stage.batch_size) == ("adamw", "cosine", 100, 32)


def test_the_config_of_a_run(tmp_path):
    """What a run wrote is read as a config, with overrides; other JSON is not."""
    config = tiny_config("resnet_basic", method="lora", lr=0.1, options={"rank": 3}, freeze=("stem/.*",))
    path = tmp_path / "config.json"
    path.write_text(json.dumps(resolve(config).to_dict()))
    assert resolve(load(str(path))).identity() == resolve(config).identity()
    changed = resolve(load(path, {"lr": "0.2", "options.rank": "5", "freeze": "head/.*"})).stages[0][1]
    assert (changed.lr, changed.options["rank"], changed.freeze) == (0.2, 5, ("head/.*",))
    left_out = {"init_options", "networks", "stage", "stream"}  # which commands read of any config
    assert not left_out & json.loads(path.read_text()).keys() and left_out <= {*load(path).keys()}
    with pytest.raises(InputError, match="unknown field config.lrr; nearest: 'lr'"):
        load(path, {"lrr": 1.0})
    for content, line in (
        ('{"a": 1}', "found other JSON"),
        ("{", "expected a run's config"),
        ("[]", "expected a JSON object"),
    ):
        path.write_text(content)
        with pytest.raises(InputError, match=line):
            load(path)
