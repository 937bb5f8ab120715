"""What every model must keep: a model joins this suite by existing."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer.conformance import KINDS, families, models
from jaxfer.conformance.models import training
from jaxfer.data.encodings.image import ImageEncoding
from jaxfer.data.encodings.pixels import INTERPOLATIONS
from jaxfer.errors import InputError
from jaxfer.models import chain
from jaxfer.models.chain import Chain, image_encoding
from jaxfer.models.layers import Dense
from jaxfer.models.port import Port
from jaxfer.registry import MODELS

from .tiny import TINY


def assert_same(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    jax.tree.map(np.testing.assert_array_equal, left, right)


def test_every_model_of_the_room_has_a_tiny_case():
    assert {name for name, _ in TINY.values()} == set(MODELS.names())


FIRST = families()
COMPUTED = (
    models.a_cut_at_any_unit_is_bitwise_the_full_pass,
    models.a_frozen_backbone_is_frozen_in_training_too,
    models.live_units_draw_and_live_norms_move,
    models.gradients_reach_every_leaf,
)


def rest(check, case):
    """What `.ci/run` leaves to `make test`: a model's other cases, and what is computed of a model beside the kinds.

    Its `make parity` computes every model's outputs, unit by unit, and ten steps of SGD.
    """
    return case not in FIRST or check in COMPUTED and case not in KINDS


# All checks of a case, then the next case: its port, shapes and compiled operations are still there.
@pytest.mark.parametrize(
    "case,check",
    [
        pytest.param(case, check, id=f"{case}-{check.__name__}", marks=pytest.mark.rest if rest(check, case) else ())
        for case in sorted(TINY)
        for check in models.PROPERTIES
    ],
)
def test_every_model_keeps(case, check):
    assert check(case) is None


class ForeignUnit(nn.Module):
    """A product and flax's own batch normalisation, a class that the policy has never heard of."""

    @nn.compact
    def __call__(self, x, *, train):
        return nn.BatchNorm(momentum=0.75, name="norm")(Dense((2,), name="product")(x), use_running_average=not train)


class ForeignChain(Chain):
    @nn.nowrap
    def units(self):
        return {"stem": ForeignUnit, "block_0": ForeignUnit}


def test_a_norm_of_a_foreign_class_keeps_its_statistics_when_frozen():
    port = Port(
        module=ForeignChain(),
        units=("stem", "block_0"),
        head="block_0/product",
        input_axes=((".*/kernel", 1),),
        encodings=(ImageEncoding(size=(1, 1, 3)),),
    )
    inputs = {"image": jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)}
    params, model_state = port.init(jax.random.key(0), inputs)
    norms = port.norms(model_state)
    assert norms == {"stem/norm", "block_0/norm"}
    evaluated, _ = port.apply(params, model_state, inputs)
    frozen, state = port.apply(params, model_state, inputs, training=training(port, eval_norms=norms))
    np.testing.assert_array_equal(frozen, evaluated)
    assert_same(state, model_state)
    # The stem's moves alone: a quarter of the way from 0 to the batch's mean.
    _, state = port.apply(params, model_state, inputs, training=training(port, eval_norms={"block_0/norm"}))
    assert_same(state["batch_stats"]["block_0"], model_state["batch_stats"]["block_0"])
    mean = np.mean(inputs["image"] @ params["stem"]["product"]["kernel"], axis=0)
    np.testing.assert_allclose(state["batch_stats"]["stem"]["norm"]["mean"], mean / 4, rtol=1e-5)


def test_a_model_takes_the_interpolations_that_images_are_resized_by(monkeypatch):
    monkeypatch.setattr(chain, "INTERPOLATIONS", {k: v for k, v in INTERPOLATIONS.items() if k != "box"})
    for name in ("nearest", "bilinear", "bicubic", "lanczos", "hamming"):
        assert image_encoding((2, 2, 1), (), (), name).interpolation == name
    with pytest.raises(InputError, match="must be one of 'nearest', .*, 'lanczos', 'hamming', found 'box'"):
        image_encoding((2, 2, 1), (), (), "box")


def test_a_resize_to_the_image_itself_cuts_nothing_out():
    assert image_encoding((4, 6, 1), (), (), "box", (4, 6)).resize == ()
    assert image_encoding((4, 4, 1), (), (), "box", (4,)).resize == (4,)
