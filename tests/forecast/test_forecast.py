"""`jaxfer plan` without a compiler for TPUs: numbers by hand, and this machine's four fake devices as a slice."""

from __future__ import annotations

import dataclasses
import json
import math

import jax
import pytest

import jaxfer
from jaxfer import commands, forecast
from jaxfer.errors import InputError
from jaxfer.forecast import _refused, plan, plan_for
from jaxfer.forecast.chips import CHIPS, GIB
from jaxfer.forecast.result import Compiled, Plan, StagePlan, TooLarge

CONFIG = "configs/digits.py:tiny,full"


def compiled(gib: float) -> Compiled:
    left = int((gib - 1) * GIB)
    sizes = dict(state=GIB // 2, batch=GIB // 2, padding=0, temporaries=left, outputs=0, program=0, alias=GIB // 2)
    return Compiled(**sizes, collectives={"all-reduce": 200e6})


def make(step: Compiled | TooLarge, **remedies: Compiled | TooLarge) -> Plan:
    sizes = dict(stage="train", batch_size=64, accumulate=1, mesh="4 devices (data 4)")
    flops = dict(flops=197e12 / 100, model_flops=4 * 197e12 / 200)
    stage = StagePlan(**sizes, **flops, compiled=step, remedies=remedies)
    return Plan(topology="v5e:2x2", chip=CHIPS["v5e"], chips=4, stages=(stage,), notes=("one thing",))


def on_cpu(overrides=None, devices=4, **chip) -> Plan:
    small = dataclasses.replace(CHIPS["v5e"], **chip)
    return plan_for(jaxfer.load(CONFIG, overrides or {}), "cpu:4", small, jax.devices()[:devices])


def test_seconds_and_mfu():
    """10 ms of products; 1 GiB of temporaries and half of State twice, half of batch once; 200 MB over the links: 1 ms.
    Half of the operations are the model's."""
    found = make(compiled(2))
    (stage,) = found.stages
    memory = 3.5 * GIB / 819e9
    assert found.seconds(stage) == {"products": 0.01, "memory": pytest.approx(memory), "links": 0.001}
    assert found.estimate(stage) == (pytest.approx(0.01), pytest.approx(0.011 + memory))
    assert found.mfu(stage) == (pytest.approx(0.005 / (0.011 + memory)), pytest.approx(0.5))
    text = str(found)
    assert "2.00 of 15.75 GiB: fits" in text
    assert "state 0.50, batch 0.50, padding 0.00, temporaries 1.00" in text
    assert "10.00 to 15.59 ms a step" in text
    assert text.endswith("\n\nnote: one thing")
    assert "not updated in place" not in text


def test_a_state_that_is_copied_is_said():
    text = str(make(dataclasses.replace(compiled(2), alias=GIB // 4)))
    assert "0.25 GiB of the State are not updated in place" in text


def test_what_fused_kernels_save_is_said(monkeypatch):
    """A step with them is compiled without them too."""
    found = make(dataclasses.replace(compiled(2), fused=True))
    found = dataclasses.replace(found, stages=(dataclasses.replace(found.stages[0], plain=compiled(5)),))
    assert "attention      in fused kernels, which save 3.00 GiB; plain: 5.00 of 15.75 GiB: fits" in str(found)
    assert found.to_dict()["stages"][0]["plain"] == {"needed": 5 * GIB, "fits": True}
    sizes = {True: dataclasses.replace(compiled(2), fused=True), False: compiled(3)}
    monkeypatch.setattr(forecast, "_compiled", lambda stage, where, devices: sizes[where.fused])
    assert on_cpu().stages[0].plain == compiled(3)
    assert on_cpu({"parallel.attention": "plain"}).stages[0].plain is None


def test_what_does_not_fit_says_what_would():
    large = TooLarge(total=160 * GIB, limit=15.75 * GIB)
    found = make(large, a=dataclasses.replace(large, total=18 * GIB), b=compiled(9))
    assert not found.fits
    assert found.seconds(found.stages[0]) == {}
    assert math.isnan(found.estimate(found.stages[0])[0])
    assert "memory a chip  at least 160.00 of 15.75 GiB: DOES NOT FIT; more is not known" in str(found)
    assert "a: at least 18.00 of 15.75 GiB: DOES NOT FIT" in str(found)
    assert "  b: 9.00 of 15.75 GiB: fits" in str(found)
    (stage,) = json.loads(json.dumps(found.to_dict(), allow_nan=False))["stages"]
    assert stage["compiled"] is stage["estimate"] is None
    assert stage["needed"] == 160 * GIB
    assert stage["remedies"]["b"] == {"needed": 9 * GIB, "fits": True}


def test_the_compilers_words_for_too_large():
    said = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (160.65G) exceeds "
        "available HBM (15.75G)."
    )
    assert _refused(said, GIB) == TooLarge(total=161.65 * GIB, limit=15.75 * GIB)
    said = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 18.46G of 15.75G hbm. Exceeded by 2.71G."
    assert _refused(said, GIB) == TooLarge(total=18.46 * GIB, limit=15.75 * GIB)
    assert _refused("INTERNAL: RET_CHECK failure", GIB) is None


def test_a_config_on_four_devices():
    """A chip's State and quarter of the batch: 4 images of 8 x 8 float32 and their labels. Gradients are summed."""
    found = on_cpu()
    (stage,) = found.stages
    step = stage.compiled
    assert (found.chips, stage.mesh, stage.batch_size) == (4, "4 devices (data 4)", 4)
    assert step.batch == 8 * 8 * 4 + 4
    gradients = (step.state / 3) * 2 * 3 / 4  # State: the parameters and AdamW's two moments, and a little
    assert step.collectives["all-reduce"] == pytest.approx(gradients, rel=0.03)
    assert stage.flops * 4 == stage.model_flops > 0
    assert found.fits
    assert found.to_dict()["stages"][0]["needed"] == step.total


@pytest.mark.system
def test_slices_of_a_batch_take_as_many_operations():
    whole, sliced = (on_cpu({"batch_size": 16, "accumulate": n}).stages[0] for n in (1, 4))
    assert sliced.flops == whole.flops
    assert sliced.accumulate == 4
    assert 0.9 < sliced.compiled.collectives["all-reduce"] / whole.compiled.collectives["all-reduce"] < 5


def test_remat_computes_more(monkeypatch):
    monkeypatch.setattr(forecast, "_compiled", lambda *_: compiled(2))
    (stage,) = on_cpu({"remat": (".*",)}).stages
    assert stage.flops * 4 > 1.2 * stage.model_flops


def test_remedies_are_compiled(monkeypatch):
    """Half of what it needs is there: the compiler's answers are exchanged for numbers, of which some fit."""
    asked, answers = [], iter([9, 8, 7, 6, 4, 6, 3])

    def needs(stage, where, devices):
        split, remat = where.shards, bool(stage.spec.execution.remat)
        asked.append((stage.config.batch_size, stage.config.accumulate, split, remat))
        return TooLarge(total=GIB, limit=1) if len(asked) == 4 else compiled(next(answers))

    monkeypatch.setattr(forecast, "_compiled", needs)
    found = on_cpu({"batch_size": 32}, memory=5 * GIB)
    again = [(32, 1, False, False), (32, 1, True, False), (32, 1, False, True), (32, 1, True, True)]
    sliced = [(32, 2, False, False), (32, 4, False, False), (32, 8, False, False)]
    assert asked == [*again, *sliced[:2], (16, 1, False, False), (8, 1, False, False)]
    fits = {what: found.room(step) for what, step in found.stages[0].remedies.items()}
    assert fits == {
        "--config.parallel.mode=fsdp --config.parallel.fsdp=1": False,
        "--config.remat='.*'": False,
        "--config.parallel.mode=fsdp --config.parallel.fsdp=1 --config.remat='.*'": False,
        "--config.accumulate=2": False,
        "--config.accumulate=4": True,
        "--config.batch_size=16": False,
        "--config.batch_size=8": True,
    }


def test_remedies_leave_out_what_is_in_force(monkeypatch):
    monkeypatch.setattr(forecast, "_compiled", lambda *_: TooLarge(total=GIB, limit=1))
    found = on_cpu({"batch_size": 16, "accumulate": 2, "parallel.mode": "fsdp", "remat": (".*",)})
    assert list(found.stages[0].remedies) == ["--config.accumulate=4", "--config.batch_size=8"]
    alone = on_cpu({"batch_size": 2}, devices=1)  # nothing to split over
    assert list(alone.stages[0].remedies) == ["--config.remat='.*'", "--config.accumulate=2", "--config.batch_size=1"]


def test_a_stage_of_several_is_named(monkeypatch):
    """Where each has its own size, the change is that stage's; the mesh is everyone's."""
    monkeypatch.setattr(forecast, "_compiled", lambda *_: TooLarge(total=GIB, limit=1))
    devices = jax.devices()[:4]
    found = plan_for(jaxfer.load("configs/digits.py:tiny,lp_ft", {"batch_size": 8}), "cpu:4", CHIPS["v5e"], devices)
    whats = [list(stage.remedies) for stage in found.stages]
    assert whats[1][:2] == ["--config.parallel.mode=fsdp --config.parallel.fsdp=1", "--config.stage.full.remat='.*'"]
    assert whats[0][-1] == "--config.stage.probe.batch_size=4"


def test_a_remedy_that_the_config_refuses_is_none(monkeypatch):
    monkeypatch.setattr(forecast, "_compiled", lambda *_: TooLarge(total=GIB, limit=1))
    real = forecast._ready

    def refuses(config, *of):
        if config.accumulate > 1:
            raise InputError("no")
        return real(config, *of)

    monkeypatch.setattr(forecast, "_ready", refuses)
    assert "--config.accumulate=2" not in on_cpu({"batch_size": 8}).stages[0].remedies


def test_idle_chips_are_noted_and_parts_of_slices_refused():
    found = on_cpu({"batch_size": 6})
    assert found.chips == 3
    assert "1 of 4 devices stay idle: the batch size is not divisible by more" in found.notes
    with pytest.raises(InputError, match=r"the mesh, 2 devices \(fsdp 2\), leaves 2 of the slice's 4 chips out"):
        on_cpu({"parallel.devices": 2, "parallel.fsdp": 2})


def test_a_mesh_that_the_wires_do_not_form(monkeypatch):
    def refuses(*arguments, **options):
        raise NotImplementedError("Failed to find assignment for logical_axis_index 1 of size 32\nmore")

    monkeypatch.setattr("jax.make_mesh", refuses)
    with pytest.raises(InputError) as caught:
        on_cpu()
    assert "the slice's 4 chips don't form this mesh (Failed to find assignment" in str(caught.value)


@pytest.mark.system
@pytest.mark.parametrize(("memory", "code"), [(GIB, 0), (1, forecast.DOES_NOT_FIT)])
def test_the_command(monkeypatch, capsys, memory, code):
    monkeypatch.setattr(forecast, "plan", lambda config, *of: on_cpu(memory=memory, devices=1))
    assert commands.main(["plan", CONFIG, "--topology=v5e:1x1", "--json", "--nocache"]) == code
    assert json.loads(capsys.readouterr().out)["fits"] is (code == 0)


@pytest.mark.parametrize(
    ("topology", "message"),
    [
        ("v5:4x4", "--topology: no TPU 'v5'; nearest: 'v5p', 'v5e', 'v4'; e.g. v5e:4x4"),
        ("v5e", "--topology: a v5e slice has 2 axes, found ''; e.g. v5e:4x4"),
        ("v5e:4x4x4", "--topology: a v5e slice has 2 axes, found '4x4x4'; e.g. v5e:4x4"),
        ("v4:4x4", "--topology: a v4 slice has 3 axes, found '4x4'; e.g. v4:2x2x2"),
        ("v6e:ax2", "--topology: a v6e slice has 2 axes, found 'ax2'; e.g. v6e:4x4"),
    ],
)
def test_slices_that_are_none(topology, message):
    with pytest.raises(InputError) as caught:
        plan(None, topology)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("JAX TPU support not installed; cannot generate TPU topology.", "pip install 'jaxfer[tpu]'"),
        ("INVALID_ARGUMENT: Topology layout is not divisible", "--topology=v5e:3x3: INVALID_ARGUMENT: Topology layout"),
    ],
)
def test_what_the_tpus_library_says(monkeypatch, said, expected):
    from jax.experimental import topologies

    def refuses(**options):
        raise RuntimeError(said)

    monkeypatch.setattr(topologies, "get_topology_desc", refuses)
    with pytest.raises(InputError) as caught:
        plan(None, "v5e:3x3")
    assert expected in str(caught.value)
