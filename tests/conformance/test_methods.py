"""Every method on every model, in three tiers. A file in `jaxfer/methods/` or `jaxfer/models/` joins by existing.

Tier i traces every pair and compiles nothing. Tier ii computes numbers along the axes: every method on one
convolutional and one transformer case, every model under `full`, `lora` and `probe`; whole runs and several devices on
one model of each kind of input. Tier iii, `make conformance`, is the whole matrix.

Most models are of blocks that others have too. `.ci/run` leaves what is marked `rest`: tier i of a model beside three
of images and texts, but for LoRA on all and `full` on the `KINDS`, since ten steps of SGD compare the training of each
with PyTorch; and of tier ii the second axis.
"""

from __future__ import annotations

import functools
import re
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxfer
from jaxfer import conformance
from jaxfer.conformance import CONVOLUTION, KINDS, TRANSFORMER, methods, sentence, tiny
from jaxfer.models.heads import EMBEDDING, supported
from jaxfer.ports import port_shapes
from jaxfer.registry import ADDS, METHODS, MODELS
from jaxfer.rules import flatten
from jaxfer.runs.finished import open_run
from jaxfer.runs.metrics import TIMES, read_metrics
from jaxfer.training.programs import _train_program
from tests.experiments import stop_after, tiny_config

FAMILIES = conformance.families()
PAIRS = [(method, case) for method in METHODS.names() for case in FAMILIES]


def parts(case):
    """Parameters of a model, by its shapes."""
    return flatten(port_shapes(tiny.make(case))[0])


# {(method, case): pattern of the one line that refuses the pair}
REFUSED: dict[tuple[str, str], str] = (
    {
        ("adapter", case): "adapter: the model has no transformer blocks"
        for case in FAMILIES
        if not any(re.match(r"\w*block.*/attn/out/", path) for path in parts(case))
    }
    | {
        ("film", case): r"film: .*; use ssf"
        for case in FAMILIES
        if case in ("alexnet", "row_mlp", "vgg_plain") or any("/attn/" in path for path in parts(case))
    }
    | {
        ("prefix_tuning", case): "prefix_tuning: the model has no transformer blocks"
        for case in FAMILIES
        if not any(re.match(r"\w*block.*/attn/out/", path) for path in parts(case))
    }
    | {
        ("prompt_tuning", case): r"prompt_tuning: reads texts, and this model reads .*; use lora"
        for case in FAMILIES
        if tiny.make(case).encoding.column != "text"
    }
    | {
        ("side_tuning", case): "side_tuning: its network reads images"
        for case in FAMILIES
        if len(tiny.make(case).encodings) > 1 or tiny.make(case).encoding.column != "image"
    }
    | {
        ("vpt", case): r"vpt: .*; use (adapter or )?lora"
        for case in FAMILIES
        if case not in ("clip", "clip_vision_cls", "dinov2_cls+mean", "siglip_vision_map", "vit_cls")
    }
    | {
        (method, case): f"{method}: the model has no {what}"
        for method, what, leaf in (("bitfit", "biases", "bias"), ("norm_tuning", "norms", "scale"))
        for case in FAMILIES
        if not any(path.endswith(f"/{leaf}") and not path.startswith("head/out/") for path in parts(case))
    }
    | {("progressive", "clip"): "progressive: adds to one array, unit 'text_block_0' gives several; use full or lora"}
    | {("delta", "clip"): "delta compares arrays, unit 'text_block_0' gives several; choose others in options.units"}
    | {
        (method, "bit"): f"{method}: the model has no kernel that it can adapt"  # all of its kernels are standardised
        for method in ("dora", "ia3", "lokr", "oft")
    }
    | {
        ("adabn", case): "adabn: the model keeps no running statistics"
        for case in FAMILIES
        if not port_shapes(tiny.make(case))[1]
    }
    | {("merge", case): "merge: expected networks to merge" for case in FAMILIES}
    | {
        (method, case): f"{method}: .*; use sim(clr|mim)"
        for method, places in (("simmim", ()), ("mae", ("beit_layer", "dinov3_plain")))
        for case in FAMILIES
        if case in (*places, "swin_v1") or "stem/patch/kernel" not in parts(case) or case == "ast"
    }
    | {
        ("tsdae", case): "tsdae: reads texts by a table of words, and this model reads .*; use simclr"
        for case in FAMILIES
        if tiny.make(case).encoding.column != "text"
    }
    | {
        (method, case): "task 'unlabelled' needs a model with the head 'embedding'"
        for method in ("simclr", "simcse", "moco", "byol", "dino", "simmim", "mae", "tsdae")
        for case in FAMILIES
        if EMBEDDING not in supported(MODELS.get(tiny.options(case)[0]))
    }
)


@functools.cache
def axes(method):
    """The convolutional and the transformer case; for a method of texts alone, the first kind that takes it."""
    taken = [case for case in (CONVOLUTION, TRANSFORMER) if (method, case) not in REFUSED]
    return taken or [case for case in KINDS if (method, case) not in REFUSED][:1]


def on_axes(method, case):
    return case in axes(method) or method in ("full", "lora", "probe")


def marks(method, case):
    """One worker for everything asked of a pair, so that its programs are compiled once."""
    return pytest.mark.xdist_group(f"{method}-{case}")


def rest(method, case):
    """What `.ci/run` leaves to `make test`."""
    asked = KINDS if method == "full" else axes(method)
    return () if case in asked or method == "lora" else (pytest.mark.rest,)


@pytest.mark.tier_i
@pytest.mark.parametrize(
    "method,case",
    [pytest.param(*pair, id="-".join(pair), marks=(marks(*pair), *rest(*pair))) for pair in PAIRS],
)
def test_shapes(method, case):
    refusal = conformance.refusal(method, case)
    if (method, case) in REFUSED:
        assert re.search(REFUSED[method, case], refusal)
        return
    assert refusal is None
    problems = {sentence(check): check(method, case) for check in methods.SHAPES}
    assert not {name: problem for name, problem in problems.items() if problem}


def lines(folder):
    return [{k: v for k, v in line.items() if k not in TIMES} for line in read_metrics(folder / "metrics.jsonl")]


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    """case -> the folder of a finished run of that model, one for all methods that read one."""

    @functools.cache
    def folder(case):
        folder = tmp_path_factory.mktemp(case) / "run"
        jaxfer.run(tiny_config(case, steps=1, eval_batch_size=8), folder, quiet=True)
        return folder

    return folder


def needs(method, case, source):
    """Fields of the config that name what the method reads: a finished run of the same model and data."""
    others, from_source = methods.planned(method, case).spec.method.others, "source_outputs" in METHODS.schema(method)
    if not (others or from_source):
        return {}
    run = f"run:{source(case)}"
    return {"networks": dict.fromkeys(others, run), **({"init": run} if from_source else {})}


# What they add is trained as `lora`'s and `adapter`'s is: no state, no stream and no other network.
ADDED = ("bitfit", "dora", "film", "ia3", "loha", "lokr", "norm_tuning", "oft", "prefix_tuning")
ADDED += ("prompt_tuning", "side_tuning", "ssf", "vera", "vpt")


def placed(method, case):
    """A method's placement and its whole runs show on one model, a model's under one method."""
    return case in axes(method)[:1] or method == "full" and case in KINDS


def whole(method, case):
    """Marks of whole runs."""
    return OFF if not placed(method, case) else (pytest.mark.rest,) if method in ADDED else ()


# Adam's arithmetic is the same for every method and model: which leaf is where, SGD shows. That a step in slices and
# shards traces is asked of every method; what it keeps is compiled once.
SGD, ADAM, SLICED = methods.PLACED
AXES = {
    **dict.fromkeys(methods.NUMBERS, on_axes),
    SGD: lambda method, case: method == "full" and case in (CONVOLUTION, TRANSFORMER),
    ADAM: lambda method, case: (method, case) == ("full", TRANSFORMER),
    SLICED: lambda method, case: (method, case) == ("full", TRANSFORMER),
}


OFF = (pytest.mark.matrix, pytest.mark.rest)


def numbers(pairs):
    """A test for each check of each pair: tier ii on the axes, the matrix beside them."""
    for check, on in AXES.items():
        for pair in pairs:
            if pair not in REFUSED and (check is not ADAM or pair[1] == TRANSFORMER):
                first = pair[1] in axes(pair[0])[:1] or pair[0] in ("full", "lora", "probe")
                beside = OFF if not on(*pair) else rest(*pair) if first else (pytest.mark.rest,)
                yield pytest.param(check, *pair, id="-".join((check.__name__, *pair)), marks=(marks(*pair), *beside))


@pytest.mark.tier_ii
@pytest.mark.parametrize("check,method,case", list(numbers(PAIRS)))
def test_numbers(check, method, case):
    assert check(method, case) is None


@pytest.mark.tier_i
@pytest.mark.parametrize(
    "method,case",
    [
        pytest.param(*pair, id="-".join(pair), marks=marks(*pair))
        for pair in PAIRS
        if pair not in REFUSED and pair[1] in axes(pair[0])[:1]
    ],
)
def test_lowered(method, case):
    """Every method in bfloat16, two slices and four shards, on one model: no compile."""
    problems = {sentence(check): check(method, case) for check in methods.LOWERED}
    assert not {name: problem for name, problem in problems.items() if problem}


# {add-on: (a model that it can be put on, what it needs)}; the transformer and nothing where absent
PUT_ON = {
    **dict.fromkeys(("tent", "cotta"), (CONVOLUTION, {"options": {"reset": "episodic"}})),
    **dict.fromkeys(("neftune", "r3f"), ("bert_pooler", {})),
    "stochnorm": (CONVOLUTION, {}),
    "jsd": (TRANSFORMER, {"stream": {"view_1": {"rows": "same"}, "view_2": {"rows": "same"}}}),
}


@pytest.mark.tier_i
@pytest.mark.parametrize("add", ADDS.names())
def test_an_add_on_lowered(add):
    """Likewise, each on plain fine-tuning."""
    case, fields = PUT_ON.get(add, (TRANSFORMER, {}))
    assert methods.a_step_in_bfloat16_slices_and_shards_lowers("full", case, adds=(add,), **fields) is None


@pytest.mark.tier_ii
@pytest.mark.parametrize(
    "method,case",
    [
        pytest.param(*pair, id="-".join(pair), marks=(marks(*pair), *whole(*pair)))
        for pair in PAIRS
        if pair not in REFUSED
    ],
)
def test_runs_resume_bitwise_and_share_one_program(method, case, source):
    """Whole runs, on one device and the pair's program; `full` on all four devices."""
    devices = {} if method == "full" else {"devices": 1}
    fields = {"method": method, "eval_batch_size": 8, **needs(method, case, source)}
    with tempfile.TemporaryDirectory() as folder:
        compiled = stopped_is_whole(Path(folder), case, devices, fields)
        if method == "full" and case in (CONVOLUTION, TRANSFORMER):  # rates and seeds of every pair: tier ii
            config = tiny_config(case, seed=2, lr=1e-2, weight_decay=0.3, **fields)
            config.parallel.update(devices)
            jaxfer.run(config, Path(folder, "other"), quiet=True)
            assert _train_program.cache_info().misses == compiled


def stopped_is_whole(folder, case, devices, fields):
    """A run that is stopped and started again is the undisturbed one bit by bit; programs compiled so far."""
    whole, parts = folder / "whole", folder / "parts"
    config = tiny_config(case, steps=5, eval_every=3, log_every=2, seed=1, **fields)
    config.parallel.update(devices)
    before = _train_program.cache_info().misses
    jaxfer.run(config, whole, quiet=True)
    compiled = _train_program.cache_info().misses
    assert compiled - before <= 1
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, steps=3)
        with pytest.raises(SystemExit) as stopped:
            jaxfer.run(config, parts, quiet=True)
        assert stopped.value.code == 75
    jaxfer.run(config, parts, quiet=True)
    ends = open_run(whole).state, open_run(parts).state
    for name in ("params", "model_state", "opt_state", "extra"):
        leaves = zip(*(jax.tree.leaves(getattr(state, name)) for state in ends), strict=True)
        assert all(np.array_equal(a, b) for a, b in leaves), name
    assert lines(whole) == lines(parts)
    return compiled


# What keeps numbers of its own between steps is in CI's selection, the others' draws are those of the step's key.
KEEPING = ("ema", "schedule_free", "swa")
TOGETHER = [(method, adds) for method, adds in (("lora", ("ema", "sam")), *(("full", (add,)) for add in ADDS.names()))]


# {method: its options that keep something else between steps than the default does, and what they need}
KEPT = {
    "der": (CONVOLUTION, {"options": {"reservoir": 9}}),
    "shot": (TRANSFORMER, {"options": {"form": "running"}}),
    "self_training": (TRANSFORMER, {"options": {"teacher": "ema"}}),
    "prompt_tuning": ("bert_pooler", {"options": {"form": "peft", "tokens": 2}}),
}


@pytest.mark.rest
@pytest.mark.tier_ii
@pytest.mark.parametrize("method", KEPT)
def test_runs_with_other_options_resume_bitwise(method, tmp_path, source):
    case, fields = KEPT[method]
    fields = {"method": method, "eval_batch_size": 8, **needs(method, case, source), **fields}
    stopped_is_whole(tmp_path, case, {"devices": 1}, fields)


@pytest.mark.tier_ii
@pytest.mark.parametrize(
    "method,adds",
    [
        pytest.param(*pair, id="+".join((pair[0], *pair[1])), marks=() if pair[1][0] in KEEPING else pytest.mark.rest)
        for pair in TOGETHER
    ],
)
def test_runs_with_add_ons_resume_bitwise(method, adds, tmp_path):
    case, fields = PUT_ON.get(adds[0], (TRANSFORMER, {}))
    stopped_is_whole(tmp_path, case, {"devices": 1}, {"method": method, "adds": adds, "eval_batch_size": 8, **fields})
