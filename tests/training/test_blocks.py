"""Members of one program, on stored features or whole: each is the run it would be alone."""

from __future__ import annotations

import functools
import json
import math
import signal

import jax
import numpy as np
import pytest

import jaxfer
from jaxfer.config import override
from jaxfer.errors import NonFiniteLoss
from jaxfer.rules import flatten
from jaxfer.runs.finished import open_run
from jaxfer.runs.metrics import TIMES, read_metrics
from jaxfer.training import blocks, loop, session
from jaxfer.training import members as training_members
from jaxfer.training.blocks import Grid
from jaxfer.training.loop import run_together
from jaxfer.training.preflight import preflight
from jaxfer.training.programs import compiles
from tests.experiments import tiny_config

pytestmark = pytest.mark.system


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXFER_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Case -> a run whose network all members start from, made once."""

    @functools.cache
    def source(case):
        folder = tmp_path_factory.mktemp(case)
        jaxfer.run(tiny_config(case, steps=1), folder / "source", quiet=True)
        return f"run:{folder / 'source'}"

    return source


def probe(source, case="resnet_basic", **fields):
    common = dict(
        init=source(case),
        head="reset",
        method="probe",
        steps=14,
        eval_every=6,
        save_every=4,
        log_every=4,
        optimizer="sgd",
        lr=0.1,
        clip=1.0,
    )
    config = tiny_config(case, **common | fields)
    config.parallel.devices = 1
    if "tokenizer" in config.model:
        config.model.buckets, config.model.dropout = (4, 5, 7), 0.1  # right before the output layer, where it is drawn
        config.differs = ("buckets",)
    return config


def members(source, case="resnet_basic", rates=(0.03, 0.1), seeds=(0, 1), **fields):
    return [probe(source, case, lr=rate, seed=seed, **fields) for rate in rates for seed in seeds]


def whole(case="row_mlp", rates=(0.03, 0.1), seeds=(0, 1), **fields):
    """Members that train networks of their own."""
    common = dict(steps=14, eval_every=6, save_every=4, log_every=4, optimizer="sgd", clip=1.0, momentum=0.5)
    config = override(tiny_config(case, **common, method="full"), {"parallel.devices": 1, **fields})
    return [override(config, {"lr": rate, "seed": seed}) for rate in rates for seed in seeds]


def together(configs, folder, *, missing=()):
    grid = Grid.of([config.seed for config in configs])
    runs = [None if i in missing else (config, folder / str(i)) for i, config in enumerate(configs)]
    return run_together(runs, grid, quiet=True)


def ending(folder):
    """(result without times, metrics without times, trained leaves of the last checkpoint) of a run."""
    result = json.loads((folder / "result.json").read_text())
    lines = [{k: v for k, v in line.items() if k not in TIMES} for line in read_metrics(folder / "metrics.jsonl")]
    leaves = flatten(jax.device_get(open_run(folder).state.params))
    return result, lines, {path: leaf for path, leaf in leaves.items() if path.startswith("head/out")}


def same(folder, other):
    """Whether two runs end the same in every bit."""
    (result, lines, leaves), (theirs, their_lines, their_leaves) = ending(folder), ending(other)
    np.testing.assert_equal(lines, their_lines)
    np.testing.assert_equal(leaves, their_leaves)
    assert result["metrics"] == theirs["metrics"] and result["lineage"] == theirs["lineage"]


def test_a_grid_has_a_row_for_each_seed():
    assert Grid.of([0, 1, 0, 1]) == Grid(shape=(2, 2), places=((0, 0), (1, 0), (0, 1), (1, 1)))
    assert Grid.of([5]) == Grid(shape=(1, 1), places=((0, 0),))
    assert Grid.of([3, 3, 4]) == Grid(shape=(3, 1), places=((0, 0), (1, 0), (2, 0))), "seeds of different numbers"


@pytest.mark.parametrize(
    ("case", "fields"),
    [
        ("resnet_basic", {"momentum": 0.5, "weight_decay": 0.01, "warmup": 3}),
        ("bert_pooler", {}),
        pytest.param("vit_cls", {"accumulate": 2}, marks=pytest.mark.rest),
        pytest.param("mobilenet_v1", {"adds": ("ema",)}, marks=pytest.mark.rest),
    ],
)
def test_each_member_is_the_run_it_would_be_alone(case, fields, sources, tmp_path):
    check_alone(members(sources, case, **fields), tmp_path)


@pytest.mark.parametrize(
    ("case", "fields"),
    [
        ("row_mlp", {"weight_decay": 0.01, "warmup": 3, "adds": ("ema",)}),
        pytest.param(
            "row_mlp",
            {"method": "lora", "accumulate": 2, "freeze": ("stem/.*",), "seeds": (5,)},
            marks=pytest.mark.rest,
        ),
        ("resnet_basic", {"data.augment": ("flip",)}),  # with running statistics
        ("row_mlp", {"rates": (0.0, 0.1), "seeds": (0,), "eval_every": 2, "patience": 2}),  # one stops early
    ],
)
def test_a_small_network_too(case, fields, tmp_path, monkeypatch):
    monkeypatch.setattr(training_members, "small", lambda stage, where: True)  # of a ResNet not, on a CPU
    configs, calls, real = whole(case, **fields), [], blocks.in_blocks
    monkeypatch.setattr(blocks, "in_blocks", lambda turns, grid: calls.append(len(turns)) or real(turns, grid))
    check_alone(configs, tmp_path)
    assert calls == [len(configs)], "and one alone is trained step by step"


def check_alone(configs, tmp_path):
    """Trains them together, and the first and the last alone: the same within the bounds of float32."""
    results = together(configs, tmp_path / "together")
    for i in (0, len(configs) - 1):
        alone = jaxfer.run(configs[i], tmp_path / "alone" / str(i), quiet=True)
        (result, lines, leaves), (_, wanted, their_leaves) = (
            ending(tmp_path / name / str(i)) for name in ("together", "alone")
        )
        assert result == results[i] and result["metrics"].keys() == alone["metrics"].keys()
        for key in ("seed", "steps", "checkpoint_step", "examples", "classes"):
            assert result[key] == alone[key]
        assert len(lines) == len(wanted)
        for line, other in zip(lines, wanted, strict=True):
            numbers = {name: value for name, value in other.items() if not isinstance(value, str)}
            assert line == other | {name: pytest.approx(x, rel=1e-5, abs=1e-6) for name, x in numbers.items()}
        for path, leaf in leaves.items():
            np.testing.assert_allclose(leaf, their_leaves[path], rtol=1e-5, atol=1e-6)
        assert result["cost"]["step_flops"] == alone["cost"]["step_flops"], "of its own step"


def test_they_are_trained_in_one_program_and_their_frozen_leaves_are_there_once(sources, tmp_path, monkeypatch):
    calls, real = [], blocks.in_blocks

    def look(turns, grid):
        frozen = [
            {id(leaf) for path, leaf in flatten(turn.state.params).items() if not path.startswith("head/out")}
            for turn in turns.values()
        ]
        calls.append((len(turns), grid.shape, len(set.union(*frozen)) == len(frozen[0])))
        return real(turns, grid)

    configs = members(sources, rates=(0.01, 0.03, 0.1))
    monkeypatch.setattr(blocks, "in_blocks", look)
    before = compiles()
    together(configs, tmp_path)
    assert calls == [(6, (2, 3), True)] and compiles() == before + 1


def test_one_that_diverges_leaves_the_others_alone(sources, tmp_path):
    calm = together(members(sources), tmp_path / "calm")
    wild = together(members(sources, rates=(0.03, 1e38)), tmp_path / "wild")
    assert [type(outcome) for outcome in wild] == [dict, dict, NonFiniteLoss, NonFiniteLoss]
    assert "non-finite loss at step" in str(wild[2])
    for i in range(2):
        assert calm[i]["metrics"]["val"]["loss"] < math.inf
        same(tmp_path / "calm" / str(i), tmp_path / "wild" / str(i))


@pytest.mark.parametrize("on", [pytest.param("features", marks=pytest.mark.rest), "examples"])
def test_with_some_finished_the_others_end_the_same(on, sources, tmp_path):
    configs = members(sources) if on == "features" else whole(**{"model.dropout": 0.1})
    together(configs, tmp_path / "whole")
    together(configs, tmp_path / "parts", missing=(0, 1, 3))
    together(configs, tmp_path / "parts")
    for i in range(4):
        same(tmp_path / "whole" / str(i), tmp_path / "parts" / str(i))


def test_frozen_leaves_that_differ_are_not_shared(tmp_path):
    """From scratch each seed has its own: a group of such is trained in a program for each."""
    configs = whole(freeze=("stem/.*",))
    check_alone(configs, tmp_path)


def test_without_room_for_one_program_they_are_trained_one_after_the_other(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training_members, "fits", lambda peak_bytes, where: False)
    configs = whole(rates=(0.1,))
    grid, runs = Grid.of([0, 1]), [(config, tmp_path / "parts" / str(i)) for i, config in enumerate(configs)]
    run_together(runs, grid)
    assert capsys.readouterr().err.count("2 cells in one program need 0.0 GiB, more than this device has") == 1
    for i, config in enumerate(configs):
        jaxfer.run(config, tmp_path / "whole" / str(i), quiet=True)
        same(tmp_path / "whole" / str(i), tmp_path / "parts" / str(i))


@pytest.mark.parametrize(
    ("case", "fields", "expected"),
    [
        ("row_mlp", {}, True),
        ("row_mlp", {"batch_size": 2**20}, False),
        ("resnet_basic", {}, False),
        ("bert_pooler", {}, True),
        ("bert_pooler", {"model.buckets": (4, 7)}, False),
    ],
)
def test_which_networks_are_trained_together_follows_from_the_config(case, fields, expected):
    """Not those with convolutions: on a CPU these take longer in a loop. Not those whose batches differ in shape."""
    (config,) = whole(case, rates=(0.1,), seeds=(0,), **fields)
    ready = preflight(config)
    assert training_members.possible(ready.stages[0], ready.where, ready.experiment) == expected


@pytest.mark.parametrize(
    ("on", "at"),
    [
        pytest.param("features", 3, marks=pytest.mark.rest),
        pytest.param("features", 6, marks=pytest.mark.rest),
        pytest.param("features", 9, marks=pytest.mark.rest),
        ("examples", 6),
    ],
)
def test_stopped_between_two_members_saves_it_goes_on_bit_for_bit(on, at, sources, tmp_path, monkeypatch):
    """Some have a later checkpoint than others then: each continues from its own."""
    configs = members(sources) if on == "features" else whole(**{"model.dropout": 0.1})
    together(configs, tmp_path / "whole")
    saves, real = [], session.Session._save

    def save(self, *args):
        saves.append(self.folder)
        if len(saves) == at:
            signal.raise_signal(signal.SIGTERM)
        if len(saves) > at + 1:
            raise KeyboardInterrupt
        real(self, *args)

    monkeypatch.setattr(session.Session, "_save", save)
    with pytest.raises(KeyboardInterrupt):
        together(configs, tmp_path / "parts")
    monkeypatch.undo()
    monkeypatch.setenv("JAXFER_CACHE", str(tmp_path / "cache"))
    together(configs, tmp_path / "parts")
    for i in range(4):
        same(tmp_path / "whole" / str(i), tmp_path / "parts" / str(i))


def test_asked_to_stop_every_member_is_saved(sources, tmp_path, monkeypatch):
    together(members(sources), tmp_path / "whole")
    monkeypatch.setattr(session.Session, "due", _asking(session.Session.due))
    stopped = together(members(sources), tmp_path / "parts")
    assert [type(outcome).__name__ for outcome in stopped] == ["Preempted"] * 4
    assert "saved at step" in stopped[3].message
    monkeypatch.undo()
    monkeypatch.setenv("JAXFER_CACHE", str(tmp_path / "cache"))
    together(members(sources), tmp_path / "parts")
    for i in range(4):
        same(tmp_path / "whole" / str(i), tmp_path / "parts" / str(i))


def test_asked_to_stop_while_they_begin_those_that_have_not_are_left_alone(sources, tmp_path, monkeypatch):
    configs, real = members(sources), loop.preflight

    def asking(config, folder):
        signal.raise_signal(signal.SIGTERM)
        return real(config, folder)

    monkeypatch.setattr(loop, "preflight", asking)
    stopped = together(configs, tmp_path)
    assert [type(outcome).__name__ for outcome in stopped] == ["Preempted"] * 4
    assert ["was not begun" in outcome.message for outcome in stopped] == [False, True, True, True]
    assert (tmp_path / "0").exists() and not (tmp_path / "1").exists()


def _asking(real):
    """`Session.due`, during whose first call SIGTERM comes."""
    calls = []

    def due(self, *args):
        calls.append(args)
        if len(calls) == 1:
            signal.raise_signal(signal.SIGTERM)
        return real(self, *args)

    return due
