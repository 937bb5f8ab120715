from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    DeiTConfig,
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

from jaxfer.pretrained.families import by_family
from jaxfer.registry import MODELS
from jaxfer.rules import unflatten

from .reference import channels_first, compare, images, ours, settle, tensors, unit_outputs, watch

pytestmark = pytest.mark.optimised

LAST = r".*\.(o_proj|fc2)"
TINY = dict(hidden_size=15, num_attention_heads=3, num_hidden_layers=2, intermediate_size=22)

CASES = {
    "patch_14": (ViTForImageClassification, ViTConfig(**TINY, patch_size=14, image_size=[28, 42]), 30),
    "one_output": (ViTForImageClassification, ViTConfig(**TINY, patch_size=4, image_size=[12, 8], num_channels=1), 1),
    "no_qkv_bias": (
        ViTForImageClassification,
        ViTConfig(**TINY, patch_size=3, image_size=9, qkv_bias=False, layer_norm_eps=1e-3),
        3,
    ),
    "deit": (DeiTForImageClassification, DeiTConfig(**TINY, patch_size=5, image_size=[10, 15]), 30),
    "deit_teacher": (DeiTForImageClassificationWithTeacher, DeiTConfig(**TINY, patch_size=5, image_size=[15, 10]), 7),
    "vit_b_16": (ViTForImageClassification, ViTConfig(), 1000),
}


@pytest.mark.parametrize("case", CASES)
def test_logits_and_hidden_states(case, tmp_path):
    make, config, outputs = CASES[case]
    config.num_labels = outputs
    size = config.image_size if isinstance(config.image_size, list | tuple) else (config.image_size,) * 2
    x = images((*size, config.num_channels))
    depth = config.num_hidden_layers
    model = settle(make(config), channels_first(x), last=LAST, gain=(2 * depth) ** -0.5)
    inner = config.model_type
    paths = {f"block_{i}": f"{inner}.layers.{i}" for i in range(depth)}
    expected = watch(model, {"stem": f"{inner}.embeddings", **paths}, channels_first(x))
    port, params, state = ours(by_family("vit", "hf"), config.to_dict(), tensors(model, tmp_path), outputs)
    compare(unit_outputs(port, params, state, {"image": x}), expected)
    with torch.no_grad():
        states = model(channels_first(x), output_hidden_states=True).hidden_states
    for name, hidden in zip(["stem", *paths], states, strict=True):
        np.testing.assert_array_equal(expected[name], hidden)


def test_the_pooler_of_a_bare_model(tmp_path):
    config = ViTConfig(**TINY, patch_size=3, image_size=[6, 9])
    x = images((6, 9, 3))
    model = settle(ViTModel(config), channels_first(x), last=LAST, gain=0.5)
    with torch.no_grad():
        expected = model(channels_first(x)).pooler_output.numpy()
    theirs = {f"vit.{name}": value for name, value in tensors(model, tmp_path).items()}
    theirs |= {"classifier.weight": np.eye(15, dtype=np.float32), "classifier.bias": np.zeros(15, np.float32)}
    port, params, state = ours(by_family("vit", "hf"), config.to_dict(), theirs, 15, pool="pooler")
    compare({"pooled": port.apply(params, state, {"image": x})[0]}, {"pooled": expected})


def test_post_norm_blocks_equal_torch():
    """transformers has no post-norm ViT; PyTorch's own encoder layer is one without the images."""
    torch.manual_seed(0)
    width, heads, hidden = 15, 3, 22
    layers = [
        nn.TransformerEncoderLayer(width, heads, hidden, 0.0, "gelu", layer_norm_eps=1e-5, batch_first=True)
        for _ in range(2)
    ]
    port = MODELS.make(
        "vit",
        outputs=3,
        patch=3,
        width=width,
        layers=2,
        heads=heads,
        mlp_width=hidden,
        norm="post",
        epsilon=1e-5,
        image=(6, 9, 3),
    )
    leaves = {}
    for i, layer in enumerate(layers):
        for parameter in layer.parameters():
            nn.init.normal_(parameter, 1.0 if parameter.ndim == 1 else 0.0, 0.3)
        theirs = {name: value.detach().numpy() for name, value in layer.state_dict().items()}
        split = np.split(theirs["self_attn.in_proj_weight"], 3), np.split(theirs["self_attn.in_proj_bias"], 3)
        for name, weight, bias in zip(("query", "key", "value"), *split, strict=True):
            leaves[f"block_{i}/attn/{name}/kernel"] = weight.T.reshape(width, heads, -1)
            leaves[f"block_{i}/attn/{name}/bias"] = bias.reshape(heads, -1)
        leaves[f"block_{i}/attn/out/kernel"] = theirs["self_attn.out_proj.weight"].T.reshape(heads, -1, width)
        leaves[f"block_{i}/attn/out/bias"] = theirs["self_attn.out_proj.bias"]
        for name, other in (("mlp/fc1", "linear1"), ("mlp/fc2", "linear2")):
            leaves[f"block_{i}/{name}/kernel"] = theirs[f"{other}.weight"].T
            leaves[f"block_{i}/{name}/bias"] = theirs[f"{other}.bias"]
        for name, other in (("norm_1", "norm1"), ("norm_2", "norm2")):
            leaves[f"block_{i}/{name}/scale"], leaves[f"block_{i}/{name}/bias"] = (
                theirs[f"{other}.weight"],
                theirs[f"{other}.bias"],
            )
    params = unflatten({name: jnp.asarray(value) for name, value in leaves.items()})
    tokens = np.random.default_rng(0).normal(size=(2, 7, width)).astype(np.float32)
    x, expected, found = torch.from_numpy(tokens), {}, {}
    for i, layer in enumerate(layers):
        x = layer(x)
        expected[f"block_{i}"] = x.detach().numpy()
        hidden_state, _ = port.apply(params, {}, {"image": tokens}, begin="block_0", end=f"block_{i}")
        found[f"block_{i}"] = np.asarray(hidden_state)
    compare(found, expected)
