"""The suite itself: what breaks a property is named, and what a file raises is its problem and no traceback."""

from __future__ import annotations

import dataclasses
import types

import jax
import jax.numpy as jnp
import pytest

import jaxfer.methods
import jaxfer.models
from jaxfer import conformance
from jaxfer.conformance import methods, models, tasks, tiny
from jaxfer.registry import TASKS
from jaxfer.task import Mean

METHOD = """
import jax.numpy as jnp
from jaxfer import rules
from jaxfer.method import FROZEN, Method

def method(port):
    return Method(rules=({rules}), {fields})
"""
HEAD = "(f'{port.head}/.*', 'head'), ('.*', FROZEN)"


@pytest.fixture
def plant(tmp_path, monkeypatch):
    """A function (name, rules, fields) that adds a method to the package for one test."""
    monkeypatch.setattr(jaxfer.methods, "__path__", [*jaxfer.methods.__path__, str(tmp_path)])

    def add(name, rules=HEAD, fields=""):
        (tmp_path / f"{name}.py").write_text(METHOD.format(rules=rules, fields=fields))
        return name

    return add


@pytest.mark.parametrize(
    ("name", "check", "fields", "problem"),
    [
        (
            "planted_lost",
            methods.merging_gives_the_backbone_back,
            "merge=lambda params, extra: {name: unit for name, unit in params.items() if name != 'stem'}",
            "stem/conv/kernel is missing",
        ),
        (
            "planted_growing",
            methods.a_training_step_maps_a_state_to_its_like,
            "init=lambda params, key, given: (params, {'seen': jnp.zeros(2)}), "
            "update=lambda ctx, extra: {'seen': jnp.zeros(3)}",
            "the State after a step: extra/seen: expected float32[2], found float32[3]",
        ),
        (
            "planted_homeless",
            methods.added_parameters_name_their_unit,
            "init=lambda params, key, given: ({**params, 'added': {'scale': jnp.ones(2)}}, {}), "
            "view=lambda params, extra: {name: unit for name, unit in params.items() if name != 'added'}",
            "added/scale names no unit of the model (stem, block_0, block_1, block_2, head)",
        ),
        (
            "planted_biased",
            methods.merged_parameters_alone_give_the_adapted_outputs,
            "view=lambda params, extra: {**params, 'head': {'out': {k: 2 * v for k, v in "
            "params['head']['out'].items()}}}",
            "differ by ",
        ),
        (
            "planted_batch",
            methods.a_changed_batch_keeps_its_fields,
            "batch=lambda ctx: {'image': ctx.batch['image'][:, :4], 'label': ctx.batch['label']}",
            "the batch that it changes: image: expected float32[8, 9, 7, 3], found float32[8, 4, 7, 3]",
        ),
        (
            "planted_field",
            methods.a_changed_batch_keeps_its_fields,
            "batch=lambda ctx: {**ctx.batch, 'share': jnp.ones(())}",
            "the batch that it changes: share has the shape [] for 8 examples",
        ),
        (
            "planted_unused",
            methods.frozen_leaves_stay_bitwise_and_trainable_ones_move,
            "init=lambda params, key, given: ({**params, 'head_extra': {'head': {'out': jnp.zeros(2)}}}, {}), "
            "view=lambda params, extra: {name: unit for name, unit in params.items() if name != 'head_extra'}",
            "head_extra/head/out did not change",
        ),
    ],
    ids=lambda value: value if str(value).startswith("planted") else "",
)
def test_a_method_that_breaks_a_property(plant, name, check, fields, problem):
    rules = "('head_extra/.*', 'head'), " + HEAD if name == "planted_unused" else HEAD
    assert check(plant(name, rules, fields), "resnet_basic").startswith(problem)


def test_a_refusal_is_one_line_and_ends_the_pair(plant, monkeypatch):
    """A rule for attention refuses models without any; one that asked models refuse is tried on all families."""
    monkeypatch.setattr(conformance, "families", lambda: ("mobilenet_v1", "resnet_basic", "vit_cls"))
    name = plant("planted_attention", "('.*/attn/.*', 'attn'), " + HEAD)
    some = dict(conformance.check_method(name, ("resnet_basic",)))
    refused = "resnet_basic: refused (method 'planted_attention': group 'attn' holds no parameter of this model)"
    assert some[refused] == "no model takes this method"
    assert {name.partition(":")[0] for name in some} == set(conformance.families())
    assert sum(name.startswith("vit_cls") for name in some) == len(methods.SHAPES)
    assert sum(name.startswith(("mobilenet_v1", "resnet_basic")) for name in some) == 2
    assert [problem for problem in some.values() if problem] == ["no model takes this method"]


def test_what_a_method_raises_is_its_problem(plant):
    name = plant("planted_error", fields="loss=lambda ctx, outputs: (outputs['logits'].mean(), {})")
    verdicts = dict(conformance._verdicts(methods.SHAPES, "resnet_basic", name, "resnet_basic"))
    (problem,) = [problem for problem in verdicts.values() if problem]
    assert problem.startswith(("TypeError: ", "IndexError: "))
    assert verdicts["resnet_basic: a training step maps a state to its like"] == problem


@pytest.mark.parametrize(
    ("check", "fields", "problem"),
    [
        (models.every_parameter_lies_in_a_unit, {"units": ("stem", "head")}, "units: ('stem', 'head'); parameters"),
        (models.the_head_is_the_last_units_and_has_the_outputs, {"head": "stem/conv"}, "head 'stem/conv' is outside"),
        (models.the_output_layer_reads_one_array, {"head": "head/other"}, "head/other is no module that is called"),
        (models.input_axes_claim_every_kernel, {"input_axes": ((".*", 9),)}, "block_0/conv_1/kernel: 9 input axes"),
        (
            models.no_decay_spares_biases_and_norms,
            {"no_decay": ((".*", 1.0),)},
            "block_0/norm_1/bias: weight decay",
        ),
    ],
)
def test_a_model_that_breaks_a_property(check, fields, problem, monkeypatch):
    port = dataclasses.replace(tiny.make("resnet_basic"), **fields)
    assert check("resnet_basic") is None
    monkeypatch.setattr(models, "make", lambda case: port)
    assert check("resnet_basic").startswith(problem)


@pytest.mark.parametrize(
    ("check", "fields", "problem"),
    [
        (
            tasks.losses_and_scores_are_means_with_a_count_per_example,
            {"loss": lambda outputs, batch, hparams: Mean(jnp.mean(outputs))},
            "the loss: totals and counts of shapes [()] for 8 examples",
        ),
        (
            tasks.losses_and_scores_are_means_with_a_count_per_example,
            {"loss": lambda outputs, batch, hparams: Mean(outputs[:, 0], jnp.float32(8))},
            "the loss: totals and counts of shapes [(), (8,)] for 8 examples",
        ),
        (
            tasks.losses_and_scores_are_means_with_a_count_per_example,
            {"scores": lambda outputs, batch: {"loss": outputs[:, 0]}},
            "loss: expected a Mean, found a ",
        ),
        (tasks.scores_hold_the_loss_and_the_monitored_metric, {"monitor": "bleu"}, "monitor 'bleu' is not among"),
        (tasks.limits_are_of_its_own_hparams, {"limits": {"beta": (0, 1)}}, "limits of ['beta']"),
    ],
)
def test_a_task_that_breaks_a_property(check, fields, problem, monkeypatch):
    task = dataclasses.replace(TASKS.make("classification"), **fields)
    monkeypatch.setattr(tasks, "TASKS", types.SimpleNamespace(make=lambda name: task))
    assert check("classification").startswith(problem)


def test_the_checks_of_one_name_are_every_property():
    verdicts = dict(conformance.check_task("regression"))
    assert verdicts == {f"regression: {conformance.sentence(check)}": None for check in tasks.PROPERTIES}


def test_the_checks_of_a_model_are_of_each_of_its_cases(monkeypatch):
    for room, names in ((models, ("PROPERTIES",)), (methods, ("SHAPES", "NUMBERS", "PLACED"))):
        for name in names:
            monkeypatch.setattr(room, name, getattr(room, name)[: 0 if name == "NUMBERS" else 1])
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    placed = "parameters agree on 1 and 4 devices in shards and under pmap"
    assert dict(conformance.check_model("bert")) == {
        "bert_pooler: every parameter lies in a unit": None,
        "bert_mean: every parameter lies in a unit": None,
        "full on bert_pooler: groups hold parameters and have rates": None,
        f"full on bert_pooler: {placed} (not checked: it takes 4 devices, this process has 2)": None,
    }


def test_a_model_from_elsewhere_states_its_tiny_options(tmp_path, monkeypatch):
    monkeypatch.setattr(jaxfer.models, "__path__", [*jaxfer.models.__path__, str(tmp_path)])
    (tmp_path / "planted_model.py").write_text(
        "from jaxfer.registry import MODELS\n"
        "TINY = dict(width=4, image=(5, 6, 3))\n"
        "def port(*, outputs: int, width: int = 64, image: tuple[int, int, int] = (224, 224, 3)):\n"
        "    given = dict(stage_sizes=(1, 1), width=width, stem='cifar', image=image)\n"
        "    return MODELS.make('resnet', outputs=outputs, **given)\n"
    )
    assert tiny.cases("planted_model") == ("planted_model",)
    assert tiny.options("planted_model") == ("planted_model", {"outputs": 3, "width": 4, "image": (5, 6, 3)})
    assert models.the_head_is_the_last_units_and_has_the_outputs("planted_model") is None
    assert methods.merging_gives_the_backbone_back("full", "planted_model") is None


def test_a_field_that_no_model_of_the_package_has_is_drawn_by_its_type():
    fields = {
        "reading": jax.ShapeDtypeStruct((50, 3), "float32"),
        "kind": jax.ShapeDtypeStruct((50,), "int32"),
    }
    batch = tiny.batch(types.SimpleNamespace(inputs=tuple(fields), example=lambda n: fields), 50)
    assert {name: (value.shape, value.dtype) for name, value in batch.items()} == {
        name: (like.shape, like.dtype) for name, like in fields.items()
    }
    assert set(batch["kind"].tolist()) == {0, 1} and 0.5 < float(batch["reading"].std()) < 1.5
