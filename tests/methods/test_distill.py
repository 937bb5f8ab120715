"""Distillation: the loss by hand, teachers of other models, sizes and folders, and that no checkpoint holds them."""

from __future__ import annotations

import json
import shutil

import jax
import numpy as np
import pytest

import jaxfer
from jaxfer.conformance.training import entered
from jaxfer.data.loader import Feed, eval_batches, train_batches
from jaxfer.errors import InputError
from jaxfer.runs.metrics import TIMES, read_metrics
from jaxfer.step import make_train_step
from jaxfer.sweeps.cells import Cell, address
from jaxfer.training import teachers
from jaxfer.training.preflight import preflight
from jaxfer.training.programs import _train_program
from tests.experiments import SOUNDS, backbone, batches, tiny_config, tiny_stage, train
from tests.pretrained.checkpoints import CLASSES, RESNET, checkpoint


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    """A teacher of another family, that reads larger images and normalises them otherwise."""
    folder, config = tmp_path_factory.mktemp("vit") / "run", tiny_config("vit_cls", steps=2, lr=0.03)
    config.model.update(image=(12, 12, 3), mean=(0.2, 0.3, 0.4), std=(0.3,))
    jaxfer.run(config, folder, quiet=True)
    return folder


def of(teacher, **fields):
    config = tiny_config("resnet_basic", **{"method": "distill", "steps": 2, "log_every": 1, **fields})
    config.networks.teacher = str(teacher)
    return config


def log_softmax(logits):
    shifted = np.asarray(logits, np.float64) - np.max(logits, -1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def test_loss_by_hand():
    """(1 - alpha) CE + alpha T^2 KL of the teacher's and the student's softmax at temperature T."""
    alpha, temperature = 0.3, 2.0
    options = {"alpha": alpha, "temperature": temperature}
    stage = tiny_stage("vit_cls", method="distill", options=options, lr=0.0)
    (batch,), port = batches(stage, 1), stage.spec.port
    student = port.apply(*backbone(stage), batch)[0]  # no unit has dropout or batch statistics
    teacher = port.apply(*entered(stage).others["teacher"][:2], batch)[0]
    task = -log_softmax(student)[np.arange(8), batch["label"]].mean()
    wanted, given = log_softmax(teacher / temperature), log_softmax(student / temperature)
    divergence = (np.exp(wanted) * (wanted - given)).sum(-1).mean()
    assert divergence > 0.01
    expected = (1 - alpha) * task + alpha * temperature**2 * divergence
    assert train(stage, 1)[1][0] == pytest.approx(float(expected), rel=1e-5)


def test_several_teachers_teach_their_mean():
    """The mean of their softmax at T, whatever their names."""
    options = {"alpha": 1.0, "temperature": 2.0, "teachers": ("one", "two")}
    stage = tiny_stage("vit_cls", method="distill", options=options, lr=0.0)
    (batch,), port, others = batches(stage, 1), stage.spec.port, entered(stage).others
    others["two"] = (*backbone(stage, seed=7), None)
    student = port.apply(*backbone(stage), batch)[0]
    chances = [np.exp(log_softmax(port.apply(*others[name][:2], batch)[0] / 2)) for name in ("one", "two")]
    wanted, given = np.log(np.mean(chances, 0)), log_softmax(student / 2)
    state = entered(stage).replace(others=others)
    metrics = jax.jit(make_train_step(stage.spec))(state, batch)[1]
    divergence = (np.exp(wanted) * (wanted - given)).sum(-1).mean()
    assert float(metrics["loss"]) == pytest.approx(4 * float(divergence), rel=1e-5)
    with pytest.raises(InputError, match="options.teachers: expected one name or several different ones, found"):
        tiny_stage("vit_cls", method="distill", options={"teachers": ("one", "one")})


@pytest.mark.system
def test_a_student_equal_to_its_teacher_stays(tmp_path):
    """With alpha 1 there is nothing to learn from a teacher that is the model itself."""
    jaxfer.run(tiny_config("vit_cls", steps=2, lr=0.03), tmp_path / "teacher", quiet=True)
    config = tiny_config("vit_cls", method="distill", options={"alpha": 1.0}, steps=2, log_every=1, optimizer="sgd")
    config.update(init=f"run:{tmp_path}/teacher", lr=0.1)
    config.networks.teacher = "sibling:teacher"
    jaxfer.run(config, tmp_path / "student", quiet=True)
    for line in read_metrics(tmp_path / "student/metrics.jsonl")[:2]:
        assert line["divergence"] == pytest.approx(0, abs=1e-6) and line["grad_norm"] == pytest.approx(0, abs=1e-5)


def test_the_teachers_fields_are_of_the_same_examples_drawn_alike(vit):
    """At its size and normalisation: with equal sizes the same flipped pixels, else what its own feed gives."""
    ready = preflight(of(f"run:{vit}"))
    (stage,), split = ready.stages, ready.data.splits["train"]
    (own,), (theirs,) = stage.spec.port.encodings, teachers.encodings(stage)["teacher"]
    assert theirs.size == (12, 12, 3) and own.size == (9, 7, 3)
    feed = Feed(split=split, encodings=(own,), others={"teacher": (theirs,)}, targets=stage.spec.task.targets)
    draw = dict(seed=3, batch_size=8, start=5, stop=6)
    (batch,) = train_batches(feed, **draw)
    (alone,) = train_batches(Feed(split=split, encodings=(theirs,)), **draw)
    assert batch["label"].shape == (8,) and batch["teacher"].keys() == {"image"}
    np.testing.assert_array_equal(batch["teacher"]["image"], alone["image"])
    same = type(theirs)(size=own.size, mean=(0.2, 0.3, 0.4), std=(0.3,))
    feed = Feed(split=split, encodings=(own,), others={"teacher": (same,)})
    (flipped,) = train_batches(feed, **draw, augment=("flip",))
    (straight,) = train_batches(feed, **draw)
    assert not np.array_equal(flipped["image"], straight["image"])
    np.testing.assert_allclose(
        flipped["teacher"]["image"] * 0.3 + np.array([0.2, 0.3, 0.4]),
        flipped["image"] * np.array(own.std) + np.array(own.mean),
        atol=1e-6,
    )
    *_, last = eval_batches(feed, batch_size=7)  # padded alike
    assert last["teacher"]["image"].shape == (7, 9, 7, 3) and last["mask"].sum() == len(split) % 7


@pytest.mark.system
def test_another_model_on_any_devices(vit, tmp_path):
    """Losses of one device, four, pmap, fsdp and slices agree; the teacher is no part of a checkpoint."""
    losses = {}
    places = {"one": (1, "jit", 1), "four": (4, "jit", 1), "pmap": (4, "pmap", 1), "fsdp": (2, "fsdp", 1)}
    for name, (devices, mode, slices) in places.items():
        config = of(f"run:{vit}", accumulate=slices)
        config.parallel.update(devices=devices, mode=mode)
        config.data.augment = ("flip",)
        jaxfer.run(config, tmp_path / name, quiet=True)
        lines = [line for line in read_metrics(tmp_path / name / "metrics.jsonl") if line["split"] == "train"]
        losses[name] = [(line["loss"], line["divergence"]) for line in lines]
    for name in places:
        np.testing.assert_allclose(losses[name], losses["one"], rtol=1e-5, err_msg=name)
    record = json.loads((tmp_path / "one/checkpoints/2/record/metadata").read_text())
    assert record["leaves"] and not any("others" in leaf for leaf in record["leaves"])


@pytest.mark.system
def test_slices_see_their_own_part_of_the_teachers_fields(vit, tmp_path):
    """No norm with batch statistics: two slices give the loss of the whole batch."""
    losses = []
    for slices in (1, 2):
        config = tiny_config("vit_mean", method="distill", steps=1, log_every=1, accumulate=slices)
        config.networks.teacher = f"run:{vit}"
        jaxfer.run(config, tmp_path / str(slices), quiet=True)
        losses.append(read_metrics(tmp_path / str(slices) / "metrics.jsonl")[0]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.system
def test_one_program_for_all_teachers_and_none_may_change(vit, tmp_path):
    """Their arrays are arguments of the step. The lineage has their sha256; a finished run needs them no more."""
    teacher = tmp_path / "teacher"
    shutil.copytree(vit, teacher)
    jaxfer.run(of(f"run:{vit}"), tmp_path / "first", quiet=True)
    before = _train_program.cache_info().misses
    other = tiny_config("vit_cls", steps=1, seed=5)
    other.model.update(image=(12, 12, 3), mean=(0.2, 0.3, 0.4), std=(0.3,))
    jaxfer.run(other, tmp_path / "other", quiet=True)
    trained = _train_program.cache_info().misses
    assert trained - before <= 1
    jaxfer.run(of(f"run:{tmp_path}/other"), tmp_path / "second", quiet=True)
    assert _train_program.cache_info().misses == trained
    one, two = (read_metrics(tmp_path / name / "metrics.jsonl")[0] for name in ("first", "second"))
    assert one["accuracy"] == two["accuracy"] and one["divergence"] != two["divergence"]
    result = jaxfer.run(of("sibling:teacher"), tmp_path / "run", quiet=True)
    sha256 = json.loads((vit / "result.json").read_text())["lineage"]["sha256"]
    assert result["lineage"]["networks"] == {"teacher": {"init": "sibling:teacher", "sha256": sha256}}
    assert {k: v for k, v in read_metrics(tmp_path / "run/metrics.jsonl")[0].items() if k not in TIMES} == {
        k: v for k, v in one.items() if k not in TIMES
    }
    shutil.rmtree(teacher)
    assert jaxfer.run(of("sibling:teacher"), tmp_path / "run", quiet=True) == result
    assert jaxfer.evaluate(tmp_path / "run") == result["metrics"]["val"]
    with pytest.raises(InputError, match="config.networks.teacher=sibling:teacher: it is gone; put it back to train"):
        jaxfer.run(of("sibling:teacher", steps=3), tmp_path / "run", quiet=True)
    shutil.copytree(tmp_path / "other", teacher)
    with pytest.raises(InputError, match="the network 'teacher' has changed since the run began"):
        jaxfer.run(of("sibling:teacher", steps=3), tmp_path / "run", quiet=True)


def test_a_checkpoint_as_teacher(tmp_path):
    """Its classes are matched by name and order; without names they are taken to be the data's, which is said."""
    _, params, _ = checkpoint(tmp_path / "named", "resnet", RESNET)
    ready = preflight(of(tmp_path / "named"))
    arrays = teachers.loaded(ready.stages[0], ready.experiment, tmp_path)["teacher"]
    np.testing.assert_array_equal(arrays[0]["head"]["out"]["kernel"], params["head"]["out"]["kernel"])
    assert not any("networks" in note for note in ready.assumed)
    checkpoint(tmp_path / "unnamed", "resnet", RESNET, labels=tuple(f"LABEL_{i}" for i in range(3)))
    assert any("its classes have no names" in note for note in preflight(of(tmp_path / "unnamed")).assumed)
    checkpoint(tmp_path / "order", "resnet", RESNET, labels=CLASSES[::-1])
    with pytest.raises(InputError, match="its classes are class_2, class_1, class_0, this data's are class_0"):
        preflight(of(tmp_path / "order"))
    with pytest.raises(InputError, match="has 5 outputs|its classes are"):
        checkpoint(tmp_path / "five", "resnet", RESNET, labels=tuple("abcde"))
        preflight(of(tmp_path / "five"))


def test_teachers_of_other_data(tmp_path):
    config = tiny_config("audio_cnn", steps=1)
    assert config.data.path == SOUNDS
    jaxfer.run(config, tmp_path / "sounds", quiet=True)
    with pytest.raises(InputError, match="config.networks.teacher=.*: the model reads sounds, the data source has ima"):
        preflight(of(f"run:{tmp_path}/sounds"))


@pytest.mark.system
def test_texts_are_read_by_one_tokenizer(tmp_path):
    jaxfer.run(tiny_config("bert_mean", steps=1), tmp_path / "teacher", quiet=True)
    config = tiny_config("bert_pooler", method="distill", steps=1)
    config.networks.teacher = f"run:{tmp_path}/teacher"
    (stage,) = preflight(config).stages
    assert not teachers.encodings(stage) and stage.spec.others[0][1].reads == ""
    config.model.max_length = 6  # the teacher may read shorter texts than it could, and no longer ones
    (stage,) = preflight(config).stages
    assert not teachers.encodings(stage)
    config.model.max_length = 9
    with pytest.raises(InputError, match="it reads texts by another tokenizer than the model's, or shorter ones"):
        preflight(config)


def test_cells_of_a_sweep_come_after_their_teacher(vit):
    teacher = address(Cell(name="teacher"), tiny_config("vit_cls"), {})
    other = address(Cell(name="teacher"), tiny_config("vit_cls", seed=1), {})
    cell = address(Cell(name="student", group="g"), of("sibling:teacher"), {"teacher": teacher})
    assert cell.sources == (teacher.key,) and cell.config.networks.teacher == f"sibling:{teacher.key}"
    assert address(Cell(name="student"), of("sibling:teacher"), {"teacher": other}).key != cell.key
    assert address(Cell(name="student"), of(f"run:{vit}"), {}).sources == ()
    with pytest.raises(InputError, match="config.networks.teacher=sibling:techer: no cell of that name before it"):
        address(Cell(name="student"), of("sibling:techer"), {"teacher": teacher})
