"""Which axis lies where, by hand."""

from __future__ import annotations

import types

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxfer.errors import InputError, RuleError
from jaxfer.method import NOTHING
from jaxfer.parallel.sharding import check_rules, left_whole, parameter_specs, parse_rules, tree_specs
from jaxfer.registry import METHODS, MODELS
from jaxfer.rules import flatten, resolve
from tests.models.tiny import TINY, batch

PORT = types.SimpleNamespace(tensor_axes=((".*/fc1/kernel", 1), (".*/fc1/bias", 0), (".*", None)))
LEAVES = {
    "block_0/fc1/kernel": jax.ShapeDtypeStruct((6, 8), "float32"),
    "block_0/fc1/bias": jax.ShapeDtypeStruct((8,), "float32"),
    "block_0/fc2/kernel": jax.ShapeDtypeStruct((8, 8), "float32"),
    "block_0/odd": jax.ShapeDtypeStruct((3, 5), "float32"),
    "block_0/scale": jax.ShapeDtypeStruct((), "float32"),
}


def specs(fsdp=1, tensor=1, rules=()):
    return parameter_specs(PORT, LEAVES, {"data": 1, "fsdp": fsdp, "tensor": tensor}, parse_rules(rules))


def test_fsdp_takes_the_largest_axis_that_it_divides():
    found = specs(fsdp=2)
    assert found == {
        "block_0/fc1/kernel": P(None, ("fsdp",)),
        "block_0/fc1/bias": P(("fsdp",)),
        "block_0/fc2/kernel": P(("fsdp",)),
        "block_0/odd": P(),
        "block_0/scale": P(),
    }
    assert specs(fsdp=3)["block_0/fc1/kernel"] == P(("fsdp",))  # 3 divides 6 and not 8
    assert specs(fsdp=5)["block_0/odd"] == P(None, ("fsdp",))


def test_tensor_takes_the_ports_axis_and_fsdp_another():
    found = specs(fsdp=2, tensor=4)
    assert found["block_0/fc1/kernel"] == P(("fsdp",), ("tensor",))
    assert found["block_0/fc1/bias"] == P(("tensor",))
    assert found["block_0/fc2/kernel"] == P(("fsdp",))
    sizes = {"data": 1, "fsdp": 2, "tensor": 3}
    assert left_whole(PORT, LEAVES, sizes) == ("block_0/fc1/kernel", "block_0/fc1/bias")
    assert specs(fsdp=2, tensor=3)["block_0/fc1/kernel"] == P(None, ("fsdp",))


def test_a_rule_of_the_users_decides_alone():
    rules = ((".*/fc1/kernel", "fsdp+tensor -"), (".*/fc2/kernel", "- fsdp"), (".*/bias", "-"))
    found = specs(fsdp=2, tensor=3, rules=rules)
    assert found["block_0/fc1/kernel"] == P(("fsdp", "tensor"))
    assert found["block_0/fc2/kernel"] == P(None, ("fsdp",))
    assert found["block_0/fc1/bias"] == P()
    assert set(specs(rules=rules).values()) == {P()}  # on one device there is nothing to split


@pytest.mark.parametrize("text", ["", "data", "fsdp fsdp", "fsdp+fsdp", "fsdp,-", "fsdp + tensor"])
def test_words_are_checked(text):
    with pytest.raises(InputError, match="expected for 'x' one word per axis"):
        parse_rules((("x", text),))


def test_rules_are_checked_against_the_parameters():
    def check(*rules, stages=(LEAVES,), **sizes):
        check_rules(parse_rules(rules), stages, {"data": 1, "fsdp": 1, "tensor": 1, **sizes})

    check((".*/kernel", "fsdp -"), fsdp=2)
    with pytest.raises(RuleError, match="'blok_0/.*' matches no parameter; nearest: 'block_0/"):
        check(("blok_0/.*", "fsdp"))
    with pytest.raises(RuleError, match="claims nothing: all it matches .1 leaf. went to the earlier"):
        check((".*/fc1/.*", "-"), ("block_0/fc1/bias", "fsdp"))
    with pytest.raises(InputError, match="fc1/bias has shape .8,.; its rule has 2 words, write 1"):
        check((".*/bias", "fsdp -"))
    with pytest.raises(InputError, match=r"axis 0 of block_0/fc1/kernel \(6, 8\) can't be split over fsdp\+tensor=4"):
        check((".*/fc1/kernel", "fsdp+tensor -"), fsdp=2, tensor=2)
    ranks = [{"block_0/fc1/lora_a": np.zeros((6, rank))} for rank in (3, 4)]  # of two stages
    check((".*/lora_a", "- fsdp"), stages=ranks[1:], fsdp=2)
    with pytest.raises(InputError, match=r"axis 1 of block_0/fc1/lora_a \(6, 3\) can't be split over fsdp=2"):
        check((".*/lora_a", "- fsdp"), stages=ranks, fsdp=2)


def test_what_is_made_of_a_parameter_lies_as_it_does():
    kernel = np.zeros((6, 8))
    params = {"block_0": {"fc1": {"kernel": kernel}}}
    tree = {
        "moments": ({"backbone": {"block_0/fc1/kernel": kernel}}, np.zeros(())),
        "teacher": params,
        "rows": {"block_0/fc1/kernel": np.zeros(6)},  # of another shape: its own business
        "stats": {"fc1": {"kernel": kernel}},  # another module's
    }
    where = P(None, ("fsdp",))
    found = tree_specs({"block_0/fc1/kernel": where}, params, tree)
    assert found["moments"] == ({"backbone": {"block_0/fc1/kernel": where}}, P())
    assert flatten(found["teacher"]) == {"block_0/fc1/kernel": where}
    assert found["rows"] == {"block_0/fc1/kernel": P()} and flatten(found["stats"]) == {"fc1/kernel": P()}


@pytest.mark.parametrize("case", sorted(TINY))
def test_every_ports_own_axes(case):
    """Each rule claims something, and the axis is one that the layer's outputs or its sum lie on."""
    port = MODELS.make(TINY[case][0], **TINY[case][1])
    params = flatten(jax.eval_shape(port.init, jax.random.key(0), batch(port))[0])
    *own, rest = port.tensor_axes
    assert rest == (".*", None) and own
    biases = [rule for rule in own if rule[0].endswith("/bias")]  # a network may have none
    axes = resolve([rule for rule in own if rule not in biases], params, defaults=(*biases, rest), what="tensor axis")
    for path, axis in axes.items():
        assert axis is None or params[path].shape[axis] > 1, path
    split = [path for path, axis in axes.items() if axis is not None]
    big = sum(params[path].size for path in split)
    assert big > 0.5 * sum(leaf.size for leaf in params.values())


def test_an_adapters_leaves_are_split_too():
    port = MODELS.make("vit", outputs=3, patch=3, width=12, layers=1, heads=2, mlp_width=20, image=(6, 9, 3))
    params = jax.eval_shape(port.init, jax.random.key(0), batch(port))[0]
    added, _ = jax.eval_shape(METHODS.make("lora", port, rank=4).init, params, jax.random.key(0), NOTHING)
    found = parameter_specs(port, flatten(added), {"data": 1, "fsdp": 4, "tensor": 1})
    assert found["lora/block_0/attn/query/a"] == P(("fsdp",))
    assert found["lora/block_0/mlp/fc1/b"] == P(None, ("fsdp",))
