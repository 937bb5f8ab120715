"""Layouts: transforms against hand-written tensors, whole checkpoints in and out, and what does not fit."""

from __future__ import annotations

import dataclasses

import jax
import ml_dtypes
import numpy as np
import pytest

from jaxfer.errors import InputError
from jaxfer.pretrained import families
from jaxfer.pretrained.layout import (
    CONV,
    DENSE,
    DEPTHWISE,
    IDENTITY,
    Key,
    Layout,
    convert,
    heads_in,
    heads_out,
    store,
)
from jaxfer.rules import flatten
from jaxfer.stored import Stored

TABLE = {
    "params/stem/conv/kernel": Key("net.stem.weight", CONV),
    "params/stem/pos": Key("net.pos"),
    "params/block_0/query/kernel": Key("net.q.weight", heads_out(2)),
    "params/block_0/query/bias": Key("net.q.bias", heads_out(2)),
    "params/block_0/out/kernel": Key("net.o.weight", heads_in(2)),
    "params/head/out/kernel": Key("classifier.weight", DENSE),
    "params/head/out/bias": Key("classifier.bias"),
    "batch_stats/stem/norm/mean": Key("net.bn.running_mean"),
}
SHAPES = {  # theirs
    "net.stem.weight": (4, 3, 2, 5),
    "net.pos": (1, 5, 4),
    "net.q.weight": (6, 4),
    "net.q.bias": (6,),
    "net.o.weight": (4, 6),
    "classifier.weight": (7, 4),
    "classifier.bias": (7,),
    "net.bn.running_mean": (4,),
}
OURS = {
    "params/stem/conv/kernel": (2, 5, 3, 4),
    "params/stem/pos": (1, 5, 4),
    "params/block_0/query/kernel": (4, 2, 3),
    "params/block_0/query/bias": (2, 3),
    "params/block_0/out/kernel": (2, 3, 4),
    "params/head/out/kernel": (4, 7),
    "params/head/out/bias": (7,),
    "batch_stats/stem/norm/mean": (4,),
}
LAYOUT = Layout(
    name="hf",
    family="toy",
    model_types=("toy",),
    keys=lambda port: TABLE,
    options=lambda config, preprocessor, shapes: {},
    config=lambda port, options, labels: {},
    preprocessor=lambda port: {},
    optional=(r"classifier\..*", r"lm_head\..*"),
    ignored=(r".*\.num_batches_tracked",),
    prefixes=("net.",),
    constants=lambda port: {"net.bn.num_batches_tracked": np.array(0)},
)


def checkpoint(**changed) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {key: rng.normal(size=shape).astype(np.float32) for key, shape in SHAPES.items()} | changed


def shapes(**changed) -> dict[str, jax.ShapeDtypeStruct]:
    ours = OURS | {f"params/{path}": shape for path, shape in changed.items()}
    return {leaf: jax.ShapeDtypeStruct(shape, np.float32) for leaf, shape in ours.items()}


def run(tensors, wanted=None, layout=LAYOUT, **options):
    return convert(tensors, layout, None, wanted or shapes(), **options)


def test_transforms_by_hand():
    kernel = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    assert CONV.load(kernel).shape == (4, 5, 3, 2) and CONV.load(kernel)[3, 4, 2, 1] == kernel[1, 2, 3, 4]
    depthwise = np.arange(6).reshape(3, 1, 2, 1)
    assert DEPTHWISE.load(depthwise).tolist() == [[[[0, 2, 4]]], [[[1, 3, 5]]]]
    assert DENSE.load(np.array([[1, 2, 3], [4, 5, 6]])).tolist() == [[1, 4], [2, 5], [3, 6]]
    query = np.array([[1, 2], [3, 4], [5, 6], [7, 8]])  # out: head 0 has rows 0 and 1, head 1 rows 2 and 3
    assert heads_out(2).load(query).tolist() == [[[1, 3], [5, 7]], [[2, 4], [6, 8]]]
    assert heads_out(2).load(np.array([1, 2, 3, 4])).tolist() == [[1, 2], [3, 4]]
    assert heads_in(2).load(query.T).tolist() == [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]


@pytest.mark.parametrize(
    "transform, shape",
    [(IDENTITY, (3,)), (CONV, (2, 3, 5, 7)), (DEPTHWISE, (5, 1, 3, 2)), (DENSE, (3, 4))]
    + [(heads_out(3), (6, 5)), (heads_out(3), (6,)), (heads_in(3), (5, 6)), (heads_out(1), (4, 3))],
)
def test_transforms_are_undone_bitwise(transform, shape):
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    assert np.array_equal(transform.store(transform.load(x)), x)


def test_attention_by_heads_is_attention_by_hand():
    """`x @ W.T + b` split into heads is what our kernel gives, and the projection back sums over all heads."""
    rng = np.random.default_rng(2)
    weight, bias, out, x = (rng.normal(size=shape) for shape in ((6, 4), (6,), (5, 6), (3, 4)))
    split = (x @ weight.T + bias).reshape(3, 2, 3)
    ours = np.einsum("ni,ihd->nhd", x, heads_out(2).load(weight)) + heads_out(2).load(bias)
    np.testing.assert_allclose(ours, split, rtol=1e-12)
    back = np.einsum("nhd,hdo->no", split, heads_in(2).load(out))
    np.testing.assert_allclose(back, split.reshape(3, 6) @ out.T, rtol=1e-12)


def test_a_round_trip_is_bitwise_and_adds_the_constants():
    tensors = checkpoint()
    tensors["net.bn.num_batches_tracked"] = np.array(9)
    found = run(tensors)
    stored = store(found.params, found.model_state, LAYOUT, None)
    assert stored.pop("net.bn.num_batches_tracked") == 0 and tensors.pop("net.bn.num_batches_tracked") == 9
    assert set(stored) == set(tensors)
    for key, value in tensors.items():
        assert stored[key].tobytes() == value.tobytes() and stored[key].shape == value.shape
        assert stored[key].flags.c_contiguous
    assert found.unused == ("net.bn.num_batches_tracked",) and found.fresh == ()


def test_the_ledger_says_what_became_of_every_leaf():
    found = run(checkpoint(), reset=("params/head/.*",))
    assert set(found.ledger) == set(OURS)
    assert found.ledger["params/stem/pos"] == {"what": "renamed", "from": "net.pos", "shape": [1, 5, 4]}
    assert found.ledger["params/stem/conv/kernel"] == {
        "what": "transposed",
        "from": "net.stem.weight",
        "shape": [2, 5, 3, 4],
    }
    head = {"what": "re-initialised", "from": "classifier.bias", "shape": [7]}
    assert found.ledger["params/head/out/bias"] == head
    assert found.fresh == ("params/head/out/kernel", "params/head/out/bias")
    assert found.unused == ("classifier.weight", "classifier.bias")
    assert set(found.params) == {"stem", "block_0"} and set(found.model_state) == {"batch_stats"}


def test_a_leaf_of_the_same_name_is_loaded():
    same = dataclasses.replace(LAYOUT, keys=lambda port: {"params/w": Key("params/w")}, prefixes=())
    found = run({"params/w": np.ones(2, np.float32)}, {"params/w": np.zeros(2, np.float32)}, same)
    assert found.ledger["params/w"]["what"] == "loaded" and found.model_state == {}


def test_a_reset_head_may_have_another_shape():
    wanted = shapes(**{"head/out/kernel": (4, 2), "head/out/bias": (2,)})
    assert run(checkpoint(), wanted, reset=("params/head/.*",)).ledger["params/head/out/bias"]["shape"] == [2]
    with pytest.raises(
        InputError, match=r"classifier\.weight \(7, 4\) for params/head/out/kernel \(4, 2\), classifier"
    ):
        run(checkpoint(), wanted)


@pytest.mark.parametrize("prefix", [lambda k: k.removeprefix("net."), lambda k: "net." + k, lambda k: k])
def test_prefixes_are_put_on_and_taken_off(prefix):
    full = {k: x for k, x in checkpoint().items() if not k.startswith("classifier")}
    found = run({prefix(key): x for key, x in full.items()})
    assert found.fresh == ("params/head/out/kernel", "params/head/out/bias") and not found.unused
    assert found.ledger["params/head/out/bias"] == {"what": "missing", "from": None, "shape": [7]}
    assert np.array_equal(found.params["stem"]["pos"], full["net.pos"])
    assert found.ledger["params/stem/pos"]["from"] == prefix("net.pos")


def test_one_name_twice():
    with pytest.raises(InputError, match="weights.pt has both 'net.pos' and 'pos'; expected one of them"):
        run(checkpoint(pos=np.zeros((1, 5, 4), np.float32)), source="weights.pt")


def test_missing_keys():
    tensors = checkpoint()
    del tensors["net.q.bias"], tensors["net.stem.weight"]
    tensors["net.q.bia"] = np.zeros(6, np.float32)
    with pytest.raises(InputError, match=r"lacks net\.stem\.weight, net\.q\.bias of layout 'hf'; nearest: ") as caught:
        run(tensors)
    assert "\n" not in str(caught.value)


def test_keys_without_a_place():
    with pytest.raises(InputError, match=r"holds net\.q\.gamma that layout 'hf' has no place for; nearest: 'net\.q\."):
        run(checkpoint(**{"net.q.gamma": np.zeros(1, np.float32)}))
    found = run(checkpoint(**{"net.q.gamma": np.zeros(1, np.float32)}), unused=(r"net\.q\.gamma",))
    assert found.unused == ("net.q.gamma",)
    assert run(checkpoint(**{"lm_head.bias": np.zeros(1, np.float32)})).unused == ("lm_head.bias",)  # optional


@pytest.mark.parametrize(
    "key, shape", [("net.stem.weight", (4, 3)), ("net.q.weight", (5, 4)), ("net.q.bias", (8,)), ("net.pos", (1, 4, 5))]
)
def test_tensors_of_another_shape(key, shape):
    with pytest.raises(InputError, match=rf"{key} \({shape[0]}, .*announce what differs".replace(", .*", ",.*")):
        run(checkpoint(**{key: np.zeros(shape, np.float32)}))


def test_surgery_only_where_the_shape_differs():
    calls = []

    def halve(x):
        calls.append(x.shape)
        return x[:, ::2]

    surgery = {"params/stem/pos": halve}
    assert run(checkpoint(), surgery=surgery).ledger["params/stem/pos"]["what"] == "renamed" and not calls
    found = run(checkpoint(), shapes(**{"stem/pos": (1, 3, 4)}), surgery=surgery)
    assert found.ledger["params/stem/pos"] == {"what": "resized", "from": "net.pos", "shape": [1, 3, 4]}
    assert np.array_equal(found.params["stem"]["pos"], checkpoint()["net.pos"][:, ::2])
    with pytest.raises(InputError, match=r"net\.pos \(1, 5, 4\) for params/stem/pos \(1, 2, 4\)"):
        run(checkpoint(), shapes(**{"stem/pos": (1, 2, 4)}), surgery=surgery)


def test_lower_precision_is_widened_exactly_and_integers_are_no_weights():
    half = {key: x.astype(ml_dtypes.bfloat16) for key, x in checkpoint().items()}
    found = run(half)
    for path, leaf in flatten({"params": found.params}).items():
        key = TABLE[path]
        assert leaf.dtype == np.float32
        assert np.array_equal(key.transform.store(leaf).astype(ml_dtypes.bfloat16), half[key.name])
    later = flatten({"params": run(half, lazy=True).params})
    assert all(np.array_equal(later[path], leaf) for path, leaf in flatten({"params": found.params}).items())
    assert {(type(leaf), leaf.value.dtype.name) for leaf in later.values()} == {(Stored, "bfloat16")}
    assert {type(leaf) for leaf in flatten(run(checkpoint(), lazy=True).params).values()} == {np.ndarray}
    with pytest.raises(InputError, match="net.pos is int8, expected floats; give unquantised weights"):
        run(checkpoint(**{"net.pos": np.zeros((1, 5, 4), np.int8)}))


def test_leaves_that_the_layout_does_not_know():
    found = run(checkpoint())
    with pytest.raises(
        InputError, match="layout 'hf' and the model differ in params/block_0/lora; merge what a method"
    ):
        store({**found.params, "block_0": {**found.params["block_0"], "lora": 1}}, found.model_state, LAYOUT, None)
    with pytest.raises(InputError, match="differ in batch_stats/stem/norm/mean"):
        store(found.params, {}, LAYOUT, None)


def test_families_are_found_by_what_they_read(monkeypatch):
    other = dataclasses.replace(LAYOUT, name="torchvision", model_types=())
    monkeypatch.setattr(families, "layouts", lambda: (LAYOUT, other))
    assert families.by_model_type("toy") is LAYOUT and families.by_family("toy", "torchvision") is other
    with pytest.raises(InputError, match=r"model_type 'gpt2' in config\.json is of no .*known: toy: a new family"):
        families.by_model_type("gpt2")
    with pytest.raises(InputError, match="family 'toy' has no checkpoint layout 'timm'; known: hf, torchvision"):
        families.by_family("toy", "timm")
    with pytest.raises(InputError, match="family 'cnn' has no checkpoint layout 'hf'; families with layouts: toy"):
        families.by_family("cnn", "hf")


def test_every_model_type_is_read_by_one_layout():
    read = [(kind, layout.name) for layout in families.layouts() for kind in layout.model_types]
    assert len(read) == len(set(read))
