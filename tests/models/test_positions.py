"""Bicubic weights with anti-aliasing, and positions that belong to no image size."""

import jax
import numpy as np
import pytest

from jaxfer.errors import InputError
from jaxfer.models.positions import cubic_weights, interpolated
from jaxfer.registry import MODELS

SMALL = dict(patch=3, width=12, layers=1, heads=3, mlp_width=20, positions=(4, 4))


def test_antialiased_weights_by_hand():
    # Half the samples: the kernel is twice as wide. Around 1.0 are samples at distances of 1/4 (both), 3/4, 5/4, 7/4
    # of it; those before the edge are left out.
    near, far = (1.5 * x**3 - 2.5 * x**2 + 1 for x in (0.25, 0.75))
    beyond, last = (-0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 for x in (1.25, 1.75))
    expected = np.array([near, near, far, beyond, last, 0, 0, 0])
    found = cubic_weights(8, 4, antialias=True)
    np.testing.assert_allclose(found[0], expected / expected.sum(), atol=1e-12)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-12)


@pytest.mark.parametrize("antialias", [False, True])
def test_the_same_grid_is_left_as_it_is(antialias):
    grid = np.random.default_rng(0).normal(size=(3, 2, 5)).astype(np.float32)
    assert interpolated(grid, (3, 2), antialias=antialias) is grid
    np.testing.assert_allclose(cubic_weights(3, 3, antialias=antialias), np.eye(3), atol=1e-12)


def test_images_of_any_size_have_the_same_parameters():
    trees = []
    for image in ((12, 12, 3), (6, 15, 3)):
        port = MODELS.make("dinov2", outputs=2, image=image, **SMALL)
        trees.append(jax.eval_shape(port.init, jax.random.key(0), port.example(1))[0])
    assert jax.tree.map(lambda x: x.shape, trees[0]) == jax.tree.map(lambda x: x.shape, trees[1])
    assert trees[0]["stem"]["pos"].shape == (1, 17, 12)


def test_every_block_passes_its_class_token_on():
    port = MODELS.make("dinov2", outputs=2, image=(6, 9, 3), **{**SMALL, "layers": 3}, registers=2, last=2)
    assert port.feature_parts == ("block_1", "block_2", "mean")
    assert [port.module.leading(unit) for unit in ("stem", "block_1", "block_2")] == [3, 3, 4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(positions=(3,)), "positions must be (rows, columns) of patches, found (3,)"),
        (dict(registers=-1), "registers must be a number of tokens from 0 on, found -1"),
        (dict(heads=5), "heads must divide the width"),
        (dict(last=2), "last must be at most the number of layers"),
        (dict(pool="mean"), "pool must be one of 'cls', 'cls+mean'"),
    ],
)
def test_options_that_do_not_go_together(options, message):
    with pytest.raises(InputError) as error:
        MODELS.make("dinov2", outputs=2, image=(6, 9, 3), **{**SMALL, **options})
    assert message in str(error.value) and "\n" not in str(error.value)
