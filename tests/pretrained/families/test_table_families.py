"""FT-Transformer's layout: what an export holds, what is read without a config.json, and what is refused."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaxfer import rules
from jaxfer.conformance import tiny
from jaxfer.errors import InputError
from jaxfer.pretrained.families import by_family
from jaxfer.pretrained.layout import convert, store
from jaxfer.registry import MODELS

LAYOUT = by_family("ft_transformer", "rtdl")


@pytest.fixture(scope="module")
def stored():
    port = tiny.make("ft_transformer")
    params, state = tiny.draw(port)
    return port, params, store(params, state, LAYOUT, port)


def test_the_names_are_those_of_the_authors_package(stored):
    port, _, tensors = stored
    assert {key: x.shape for key, x in tensors.items() if not key.startswith("backbone.blocks.1")} == {
        "cls_embedding.weight": (6,),
        "cont_embeddings.weight": (2, 6),
        "cont_embeddings.bias": (2, 6),
        "cat_embeddings.embeddings.0.weight": (4, 6),
        "cat_embeddings.embeddings.1.weight": (2, 6),
        "cat_embeddings.bias": (2, 6),
        **{f"backbone.blocks.0.attention.W_{name}.weight": (6, 6) for name in ("q", "k", "v", "out")},
        **{f"backbone.blocks.0.attention.W_{name}.bias": (6,) for name in ("q", "k", "v", "out")},
        "backbone.blocks.0.ffn_normalization.weight": (6,),
        "backbone.blocks.0.ffn_normalization.bias": (6,),
        "backbone.blocks.0.ffn.linear1.weight": (16, 6),
        "backbone.blocks.0.ffn.linear1.bias": (16,),
        "backbone.blocks.0.ffn.linear2.weight": (6, 8),
        "backbone.blocks.0.ffn.linear2.bias": (6,),
        "backbone.output.normalization.weight": (6,),
        "backbone.output.normalization.bias": (6,),
        "backbone.output.linear.weight": (3, 6),
        "backbone.output.linear.bias": (3,),
    }
    assert "backbone.blocks.1.attention_normalization.weight" in tensors


def test_stored_and_read_again_is_the_same_model(stored):
    port, params, tensors = stored
    shapes = {key: x.shape for key, x in tensors.items()}
    again = MODELS.make(
        "ft_transformer", outputs=3, **LAYOUT.options(LAYOUT.config(port, {}, ("a", "b", "c")), {}, shapes)
    )
    assert again.options == port.options and again.encoding == port.encoding
    found = convert(tensors, LAYOUT, port, rules.flatten({"params": params}))
    assert not found.fresh and not found.unused
    jax.tree.map(np.testing.assert_array_equal, found.params, params)


def test_without_a_config_the_shapes_say_the_sizes(stored):
    shapes = {key: x.shape for key, x in stored[2].items()}
    assert LAYOUT.options({}, {}, shapes) == {"blocks": 2, "width": 6, "heads": 8, "mlp_width": 8}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone.blocks.0.ffn.linear1.weight": (8, 6)}, "not gated"),
        ({"backbone.blocks.0.attention.key_compression.weight": (2, 5)}, "compresses its keys"),
        ({"cls_embedding.weight": None}, "expected an FT-Transformer"),
    ],
)
def test_other_networks_are_refused(stored, change, message):
    shapes = {key: x.shape for key, x in stored[2].items()} | change
    with pytest.raises(InputError, match=message):
        LAYOUT.options({}, {}, {key: shape for key, shape in shapes.items() if shape is not None})


def test_one_head_is_refused():
    with pytest.raises(InputError, match="at least 2 heads"):
        tiny.make("ft_transformer", heads=1)
