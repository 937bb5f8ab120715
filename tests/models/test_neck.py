"""The neck: what it computes, where it can stand, and what becomes of it at the start of a run."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfer
from jaxfer.conformance import tiny
from jaxfer.errors import InputError
from jaxfer.models import neck
from jaxfer.models.passes import BOTTLENECK, FEATURES, Training
from jaxfer.registry import MODELS
from jaxfer.rules import flatten, resolve
from jaxfer.runs.finished import open_run
from tests.experiments import tiny_config
from tests.pretrained.checkpoints import RESNET, checkpoint, config_of

NECK = "head/neck"


@pytest.mark.parametrize(("relu", "hidden"), [(True, 0), (False, 0), (True, 4)])
def test_it_is_a_dense_layer_batch_norm_and_relu_before_the_output_layer(relu, hidden):
    """By hand from what the model without it gives its output layer, in evaluation and in training mode."""
    given = dict(neck=5, neck_relu=relu, neck_hidden=hidden)
    plain, port = tiny.make("resnet_basic"), tiny.make("resnet_basic", **given)
    batch, (params, model_state) = tiny.batch(port, 6), tiny.draw(port)
    leaves = {path: np.asarray(leaf, np.float64) for path, leaf in flatten(params).items()}
    assert {path: leaf.shape for path, leaf in leaves.items() if path.startswith("head/")} == {
        f"{NECK}/dense/kernel": (*plain.features, 5),
        f"{NECK}/dense/bias": (5,),
        f"{NECK}/norm/scale": (5,),
        f"{NECK}/norm/bias": (5,),
        **({f"{NECK}/hidden/kernel": (5, hidden), f"{NECK}/hidden/bias": (hidden,)} if hidden else {}),
        "head/out/kernel": (hidden or 5, 3),
        "head/out/bias": (3,),
    }
    assert port.features == (hidden or 5,) and neck.bottleneck(port) == (BOTTLENECK if hidden else FEATURES, 5)
    assert f"{NECK}/norm" in port.norms(model_state)

    kernels = {path: leaf for path, leaf in leaves.items() if path.endswith("/kernel")}
    assert resolve(port.input_axes, kernels, what="axes")[f"{NECK}/dense/kernel"] == 1  # no rule is left over
    kept = {name: np.asarray(x, np.float64) for name, x in model_state["batch_stats"]["head"]["neck"]["norm"].items()}
    whole = Training(key=jax.random.key(1), live=frozenset(port.units), eval_norms=frozenset())
    for training in (None, whole):
        # Without its neck the model has another output layer, which does not matter to what that reads.
        alone = {**params, "head": {"out": {"kernel": jnp.zeros((*plain.features, 3)), "bias": jnp.zeros(3)}}}
        below = plain.forward(alone, model_state, batch, taps=(FEATURES,), training=training).taps[FEATURES]
        taps = (FEATURES, *([BOTTLENECK] if hidden else []))
        found = port.forward(params, model_state, batch, taps=taps, training=training)
        y = np.asarray(below, np.float64) @ leaves[f"{NECK}/dense/kernel"] + leaves[f"{NECK}/dense/bias"]
        mean, var = (kept["mean"], kept["var"]) if training is None else (y.mean(0), y.var(0))
        y = (y - mean) / np.sqrt(var + 1e-5) * leaves[f"{NECK}/norm/scale"] + leaves[f"{NECK}/norm/bias"]
        y = np.maximum(y, 0) if relu else y
        np.testing.assert_allclose(found.taps[taps[-1]], y, rtol=1e-4, atol=1e-5)
        if hidden:
            y = np.maximum(y @ leaves[f"{NECK}/hidden/kernel"] + leaves[f"{NECK}/hidden/bias"], 0)
            np.testing.assert_allclose(found.taps[FEATURES], y, rtol=1e-4, atol=1e-5)
        wanted = y @ leaves["head/out/kernel"] + leaves["head/out/bias"]
        np.testing.assert_allclose(found.outputs, wanted, rtol=1e-4, atol=1e-5)
        moved = found.model_state["batch_stats"]["head"]["neck"]["norm"]["mean"]
        np.testing.assert_allclose(moved, 0.9 * kept["mean"] + 0.1 * mean, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("hidden", [0, 64])
def test_it_drops_what_it_gives(hidden):
    port = tiny.make("row_mlp", neck=64, neck_hidden=hidden, neck_dropout=0.5)
    params, model_state = tiny.draw(port)
    batch = tiny.batch(port, 6)
    assert f"{NECK}/drop" in port.dropouts
    frozen = Training(key=jax.random.key(1), live=frozenset(port.units), eval_norms=port.norms(model_state))
    read = port.forward(params, model_state, batch, taps=(FEATURES,), training=frozen).taps[FEATURES]
    kept = port.forward(params, model_state, batch, taps=(FEATURES,)).taps[FEATURES]
    dropped = np.asarray((read == 0) & (kept > 0)).sum() / np.asarray(kept > 0).sum()
    assert 0.3 < dropped < (0.9 if hidden else 0.7)  # a hidden layer's own signs change too
    assert (f"{NECK}/hidden_drop" in port.dropouts) == bool(hidden)


@pytest.mark.parametrize(
    ("case", "given", "message"),
    [
        ("row_mlp", dict(neck=-1), "neck must be a width, or 0 for none, found -1"),
        ("row_mlp", dict(neck_relu=False), "neck_relu, neck_hidden and neck_dropout are of a neck, and there is none"),
        ("row_mlp", dict(neck_hidden=4), "neck_relu, neck_hidden and neck_dropout are of a neck, and there is none"),
        ("row_mlp", dict(neck=4, neck_hidden=True), "neck_hidden must be a width, or 0 for none, found True"),
        ("row_mlp", dict(neck=4, neck_dropout=1.0), r"neck_dropout must be a drop rate in \[0, 1\)"),
        ("bert_mean", dict(neck=4, head="token"), "between one vector of an example and a pooled"),
        ("bert_mean", dict(neck=4, head="vocab"), "between one vector of an example and a pooled"),
        ("bert_mean", dict(neck=4, head="embedding", outputs=0), "between one vector of an example and a pooled"),
        (
            "vit_distilled",
            dict(neck=4, distillation="head"),
            "between one vector of an example and a pooled",
        ),
    ],
)
def test_where_it_has_no_place(case, given, message):
    with pytest.raises(InputError, match=message):
        tiny.make(case, **given)


def test_every_model_has_the_option_and_no_record_has_its_default():
    assert {"neck", "neck_relu", "neck_dropout"} <= MODELS.schema("vit").keys()
    assert "neck_dropout" in MODELS.training("vit") and "neck" not in MODELS.training("vit")
    assert "neck" not in MODELS.complete("vit", {"neck": 0}, "config.model")
    assert MODELS.complete("vit", {"neck": 8}, "config.model")["neck"] == 8
    assert MODELS.make("vit", outputs=2, neck=0) == MODELS.make("vit", outputs=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of runs with a neck (`neck`) and without (`plain`)."""
    folder = tmp_path_factory.mktemp("neck")
    jaxfer.run(tiny_config("resnet_neck", steps=2), folder / "neck", quiet=True)
    jaxfer.run(tiny_config("resnet_basic", steps=2), folder / "plain", quiet=True)
    return folder


def leaves(run):
    return {path: np.asarray(leaf) for path, leaf in flatten(open_run(run).state.params).items()}


def test_a_run_that_starts_from_it_has_it_and_shot_trains_it_under_the_frozen_head(folder, tmp_path):
    config = tiny_config("resnet_neck", init=f"run:{folder / 'neck'}", steps=2, method="shot", head="keep")
    del config.model.neck  # as in the source
    jaxfer.run(config, tmp_path / "run", quiet=True)
    before, after = leaves(folder / "neck"), leaves(tmp_path / "run")
    assert before.keys() == after.keys() and f"{NECK}/dense/kernel" in after
    moved = {path for path in after if not np.array_equal(before[path], after[path])}
    assert f"{NECK}/dense/kernel" in moved and not {path for path in moved if path.startswith("head/out/")}


@pytest.mark.parametrize(("begun", "width"), [("neck", 3), ("neck", 0), ("plain", 6)])
def test_another_neck_is_announced_and_drawn_with_the_head(folder, tmp_path, begun, width, capsys):
    case = {"neck": "resnet_neck", "plain": "resnet_basic"}[begun]
    config = tiny_config(case, init=f"run:{folder / begun}", steps=1)
    config.model.neck = width
    if not width:
        del config.model.neck_dropout, config.model.neck_hidden
    with pytest.raises(InputError, match=f"neck is {5 if begun == 'neck' else 0} there, {width} here"):
        jaxfer.run(config, tmp_path / "run", quiet=True)
    config.differs = ("neck_hidden",)
    with pytest.raises(InputError, match="another neck_hidden makes another neck, all of it drawn anew; announce neck"):
        jaxfer.run(config, tmp_path / "run", quiet=True)
    config.differs = ("neck",)
    config.head = "keep"
    with pytest.raises(InputError, match="config.head=keep: the source's head does not read this neck"):
        jaxfer.run(config, tmp_path / "run", quiet=True)
    config.head = "auto"
    config.method = "probe"
    jaxfer.run(config, tmp_path / "run")
    after = leaves(tmp_path / "run")
    read = {3: 4, 0: 4, 6: 6}[width]  # the hidden layer's, the stage's, the neck's own
    assert after["head/out/kernel"].shape[0] == read
    assert (f"{NECK}/dense/kernel" in after) == bool(width)
    shown = " ".join(capsys.readouterr().err.split())
    warned = "warning: drawn at random and trained by no stage: params/head/neck" in shown
    assert warned == bool(width)


def test_a_checkpoint_has_none_so_it_is_drawn_with_the_head(tmp_path):
    """All below is the checkpoint's, though its classes are the data's."""
    checkpoint(tmp_path / "photos", "resnet", RESNET)
    config = config_of(tmp_path / "photos", model=dict(neck=4), lr=0.0, weight_decay=0.0)
    jaxfer.run(config, tmp_path / "run", quiet=True)
    ledger = json.loads((tmp_path / "run" / "ledger.json").read_text())["leaves"]
    drawn = {leaf: entry["why"] for leaf, entry in ledger.items() if entry["what"] == "re-initialised"}
    own = {f"params/{NECK}/{name}" for name in ("dense/kernel", "dense/bias", "norm/scale", "norm/bias")}
    own |= {f"batch_stats/{NECK}/norm/{name}" for name in ("mean", "var")}
    own |= {"params/head/out/kernel", "params/head/out/bias"}  # it would read another layer
    assert drawn == dict.fromkeys(own, "the source has no neck")
    config.head = "keep"
    with pytest.raises(InputError, match="config.head=keep: the source's head does not read this neck"):
        jaxfer.run(config, tmp_path / "other", quiet=True)
    config.update(head="reset", method="lwf")
    config.stream.former = dict(config.data)
    with pytest.raises(InputError, match="'lwf' reads the source's output layer, which reads no neck"):
        jaxfer.run(config, tmp_path / "other", quiet=True)


def test_a_stage_of_another_kind_of_head_goes_without(tmp_path):
    """Masked words first, by the model alone; then the neck is drawn with the head."""
    config = tiny_config("bert_mean", stages=("words", "train"))
    config.model.neck = 4
    config.stage.words = dict(task="masked_lm", steps=1)
    config.stage.train = dict(steps=1)
    jaxfer.run(config, tmp_path / "run", quiet=True)
    assert leaves(tmp_path / "run")["head/out/kernel"].shape[0] == 4
    config = tiny_config("bert_mean", stages=("words",), init=f"run:{tmp_path / 'run'}", differs=("neck",))
    config.model.neck = 0
    config.task = dict(name="masked_lm")
    config.stage.words = dict(steps=1)
    jaxfer.run(config, tmp_path / "words", quiet=True)
    assert not any("neck" in path for path in leaves(tmp_path / "words"))


def test_no_head_is_read_under_another_neck(folder, tmp_path):
    config = tiny_config("resnet_basic", init=f"run:{folder / 'plain'}", steps=1, differs=("neck",), method="lwf")
    config.model.neck = 6
    config.stream.former = dict(config.data)
    with pytest.raises(InputError, match="'lwf' reads the source's output layer, which does not read this neck"):
        jaxfer.run(config, tmp_path / "run", quiet=True)
    with pytest.raises(InputError, match=r"its neck is \(5, True, 4\), that of .* None; leave it out"):
        jaxfer.chain([folder / "plain", folder / "neck"])
    assert tiny.make("vit_cls", pool="cls+mean", neck=6).feature_parts == ()


def test_formats_and_other_heads_have_no_place_for_it(folder):
    with pytest.raises(InputError, match="has no place for config.model.neck; predict with the run"):
        jaxfer.export(folder / "neck", format="hf")
