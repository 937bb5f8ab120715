"""VPT: the paper's counts, deep and shallow prompts by hand, the draw, dropout, and models without a row of patches."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfer
from jaxfer.conformance import tiny
from jaxfer.errors import InputError
from jaxfer.method import NOTHING
from jaxfer.models.passes import Training
from jaxfer.ports import port_shapes
from jaxfer.registry import METHODS, MODELS
from tests.experiments import tiny_config, tiny_stage


@pytest.mark.parametrize("deep,tokens,count", [(True, 10, 92_160), (True, 50, 460_800), (False, 50, 38_400)])
def test_counts_on_vit_base(deep, tokens, count):
    port = MODELS.make("vit", outputs=2)
    init = METHODS.make("vpt", port, deep=deep, tokens=tokens).init
    params, _ = jax.eval_shape(init, port_shapes(port)[0], jax.random.key(0), NOTHING)
    assert sum(leaf.size for leaf in jax.tree.leaves(params["vpt"])) == count


def made(case, changes=(), **options):
    port = tiny.make(case, **dict(changes))
    method = METHODS.make("vpt", port, **options)
    params, model_state = tiny.draw(port)
    params, _ = method.init(params, jax.random.key(0), NOTHING)
    prompts = jax.tree.map(lambda leaf: 5 * leaf, params["vpt"])
    return port, method, {**params, "vpt": prompts}, model_state, tiny.batch(port)


# {case: special tokens in what each of stem and blocks gives}
SPECIAL = {
    "vit_cls": (1, 1, 1),
    "vit_mean": (0, 0, 0),
    "vit_distilled": (2, 2, 2),
    "vit_last": (1, 1, 2, 3),
    "dinov2_registers": (3, 3, 3),
    "siglip_vision_map": (0, 0, 0),
}


@pytest.mark.parametrize("deep", [True, False])
@pytest.mark.parametrize("case", SPECIAL)
def test_by_hand(case, deep):
    """Block by block, on rows of tokens that are put together here; the head reads the others."""
    port, method, params, _, batch = made(case, deep=deep, tokens=2)
    plain, names = method.view(params, {}), port.units[1:-1]

    def unit(name, x):
        return port.apply(plain, {}, {**batch, port.inputs[0]: x}, begin=name, end=name)[0]

    @jax.jit
    def passed():
        x = port.apply(plain, {}, batch, end=port.units[0])[0]
        for i, name in enumerate(names):
            before, after = SPECIAL[case][i : i + 2]
            if name in params["vpt"]:
                prompts = jnp.broadcast_to(params["vpt"][name]["prompts"], (len(x), 2, x.shape[-1]))
                x = jnp.concatenate([x[:, :before], prompts, x[:, before if deep or not i else before + 2 :]], 1)
            x = unit(name, x)
            if deep or name == names[-1]:
                x = jnp.delete(x, np.arange(after, after + 2), axis=1)
        found = port.apply(plain, {}, batch, intercept=method.intercept(params, {}))[0]
        return unit(port.units[-1], x), found, port.apply(plain, {}, batch)[0]

    wanted, found, bare = passed()
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    assert len(params["vpt"]) == (len(names) if deep else 1)
    assert jnp.abs(found - bare).max() > 1e-2


def test_a_head_of_maps_and_the_image_tower_of_two():
    port, method, params, _, batch = made("vit_mean", {"head": "dense"})
    how = dict(intercept=method.intercept(params, {}))
    assert jax.eval_shape(lambda: port.apply(method.view(params, {}), {}, batch, **how)[0]).shape == (4, 6, 9, 3)
    port, method, params, _, batch = made("clip")
    assert set(params["vpt"]) == {"image_block_0", "image_block_1"}
    found = jax.jit(lambda: port.apply(method.view(params, {}), {}, batch, intercept=method.intercept(params, {}))[0])()
    assert found.shape == (4, 3) and jnp.isfinite(found).all()


def test_the_draw_is_uniform_within_the_papers_bound():
    port = tiny.make("vit_cls")
    params, _ = METHODS.make("vpt", port, tokens=200).init(tiny.draw(port)[0], jax.random.key(0), NOTHING)
    drawn, most = np.asarray([leaf["prompts"] for leaf in params["vpt"].values()]), np.sqrt(6 / (3 * 3 * 3 + 12))
    assert 0.99 * most < np.abs(drawn).max() <= most and drawn.std() == pytest.approx(most / np.sqrt(3), rel=0.02)


def test_nothing_is_dropped_in_the_blocks():
    """In training too, where the prompts make their units live."""
    port, method, params, _, batch = made("vit_cls", {"dropout": 0.5, "stochastic_depth": 0.5})
    live = frozenset(port.units[1:])
    training = Training(key=jax.random.key(0), live=live, eval_norms=frozenset())
    plain, how = method.view(params, {}), dict(intercept=method.intercept(params, {}))
    trained = port.apply(plain, {}, batch, training=training, **how)[0]
    np.testing.assert_array_equal(trained, port.apply(plain, {}, batch, **how)[0])
    assert jnp.abs(trained - port.apply(plain, {}, batch, training=training)[0]).max() > 1e-2


@pytest.mark.parametrize(
    "case,why",
    [
        ("resnet_basic", "the model has no transformer blocks"),
        ("swin_v1", "blocks pass on maps and no row of tokens"),
        ("beit_layer", "a table of its own tokens' places"),
        ("dinov3_plain", "a table of its own tokens' places"),
        ("bert_pooler", "its tokens are of images, and this model reads texts"),
    ],
)
def test_a_model_that_it_does_not_fit(case, why):
    with pytest.raises(InputError, match=f"vpt: .*{why}"):
        tiny_stage(case, method="vpt")


def test_a_beit_without_its_table_has_room_for_them():
    port, method, params, _, batch = made("beit_layer", {"relative": "none"})
    assert port.apply(method.view(params, {}), {}, batch, intercept=method.intercept(params, {}))[0].shape == (4, 3)


@pytest.mark.system
def test_a_run_predicts_and_is_not_exported(tmp_path):
    jaxfer.run(tiny_config("vit_cls", method="vpt", steps=2), tmp_path / "run", quiet=True)
    (answer,) = jaxfer.predict(tmp_path / "run", np.zeros((6, 9, 3), np.uint8))
    assert answer.error is None and len(answer.probabilities) == 3
    with pytest.raises(InputError, match="method 'vpt' adds modules that no plain ViT has"):
        jaxfer.export(tmp_path / "run")


def test_a_number_of_tokens():
    with pytest.raises(InputError, match="vpt: expected tokens >= 1, found 0"):
        tiny_stage("vit_cls", method="vpt", options={"tokens": 0})
