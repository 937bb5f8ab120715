"""(IA)^3 (arXiv:2205.05638): where the scales go, how many there are, and what kernels take up."""

from __future__ import annotations

import numpy as np

from jaxfer.rules import flatten, unflatten
from tests.experiments import backbone, tiny_stage
from tests.methods.added import added


def test_keys_values_and_the_inner_activation():
    stage = tiny_stage("vit_cls", method="ia3")
    shapes = {path: leaf.shape for path, leaf in flatten(stage.shapes[0]["ia3"]).items()}
    wanted = {"attn/key/outputs": (3, 4), "attn/value/outputs": (3, 4), "mlp/fc2/inputs": (20,)}
    assert shapes == {f"block_{i}/{site}": shape for i in (0, 1) for site, shape in wanted.items()}


def test_every_layer_of_a_block_without_attention():
    sites = flatten(tiny_stage("resnet_basic", method="ia3").shapes[0]["ia3"])
    assert set(sites) == {f"block_{i}/conv_{j}/outputs" for i in (0, 1, 2) for j in (1, 2)}


def test_merged_kernels_and_biases_by_hand():
    stage = tiny_stage(
        "vit_cls", method="ia3", options={"outputs": (".*/mlp/fc1/kernel",), "inputs": (".*/out/kernel",)}
    )
    leaves, rng = flatten(stage.enter(*backbone(stage), 0).params), np.random.default_rng(0)
    out, read = rng.normal(size=20).astype(np.float32), rng.normal(size=(3, 4)).astype(np.float32)
    leaves |= {"ia3/block_0/mlp/fc1/outputs": out, "ia3/block_0/attn/out/inputs": read}
    merged = flatten(stage.spec.method.merge(unflatten(leaves), {}))
    wanted = {
        "block_0/mlp/fc1/kernel": leaves["block_0/mlp/fc1/kernel"] * out,
        "block_0/mlp/fc1/bias": leaves["block_0/mlp/fc1/bias"] * out,
        "block_0/attn/out/kernel": leaves["block_0/attn/out/kernel"] * read[:, :, None],
    }
    for path, leaf in merged.items():
        np.testing.assert_allclose(leaf, wanted.get(path, leaves[path]), rtol=0, atol=1e-6)


def test_count_on_roberta_base():
    """Also with the inputs of every `output.dense`, which is what peft takes under that name."""
    assert added("ia3", "roberta") == 55_296
    both = {"outputs": (r".*/attn/(key|value)/kernel",), "inputs": (r".*/attn/out/kernel", r".*/mlp/fc2/kernel")}
    assert added("ia3", "roberta", **both) == 64_512
