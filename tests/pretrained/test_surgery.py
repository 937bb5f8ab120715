"""Surgery: PyTorch's bicubic resize and first convolutions for other channels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jaxfer.errors import InputError
from jaxfer.pretrained.formats.reading import read
from jaxfer.pretrained.surgery import cubic_weights, inflate_input, resize_positions

BICUBIC = read(Path(__file__).parent / "golden" / "bicubic.pt")


def tokens(grid: np.ndarray, extra: int = 0) -> np.ndarray:
    """[1, c, h, w] -> [1, extra + h * w, c]; the extra tokens are 100, 101, ..."""
    channels = grid.shape[1]
    head = np.broadcast_to(100 + np.arange(extra, dtype=grid.dtype)[:, None], (extra, channels))
    return np.concatenate([head, grid[0].reshape(channels, -1).T])[None]


@pytest.mark.parametrize("extra", [0, 1, 2])
@pytest.mark.parametrize("new", [(4, 5), (1, 2), (7, 3), (2, 3)])
def test_positions_are_resized_as_pytorch_does(new, extra):
    """golden/bicubic.pt: torch.nn.functional.interpolate of a 2 x 3 grid, up, down and both."""
    found = resize_positions(tokens(BICUBIC["grid"], extra), (2, 3), new, extra=extra)
    expected = tokens(BICUBIC[f"{new[0]}x{new[1]}"], extra)
    assert found.shape == expected.shape and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert np.array_equal(found[:, :extra], expected[:, :extra])


def test_cubic_weights_by_hand():
    """Doubling: new sample 1 lies at 0.25, so a = -0.75 gives taps at distances 1.25, 0.25, 0.75, 1.75."""
    far, near, next_, last = -0.10546875, 0.87890625, 0.26171875, -0.03515625
    weights = cubic_weights(4, 8)
    np.testing.assert_allclose(weights[1], [far + near, next_, last, 0], atol=1e-12)  # the edge is repeated
    np.testing.assert_allclose(weights[3], [far, near, next_, last], atol=1e-12)
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-12)
    assert np.array_equal(cubic_weights(5, 5), np.eye(5))


def test_the_same_grid_is_left_alone_and_a_square_one_is_assumed():
    positions = np.random.default_rng(0).normal(size=(1, 5, 3)).astype(np.float32)
    assert resize_positions(positions, (2, 2), (2, 2), extra=1) is positions
    square = resize_positions(positions, None, (3, 1), extra=1)
    assert np.array_equal(square, resize_positions(positions, (2, 2), (3, 1), extra=1))


def test_positions_that_are_no_such_grid():
    with pytest.raises(
        InputError, match=r"\[1, 1 \+ 2 \* 3, channels\], found \[1, 6, 4\]; give the checkpoint's image"
    ):
        resize_positions(np.zeros((1, 6, 4)), (2, 3), (4, 4), extra=1)
    with pytest.raises(InputError, match=r"found \[1, 6, 4\]"):
        resize_positions(np.zeros((1, 6, 4)), None, (4, 4), extra=0)
    with pytest.raises(InputError, match=r"found \[1, 1, 4\]"):
        resize_positions(np.zeros((1, 1, 4)), None, (4, 4), extra=1)


def test_first_convolutions_for_other_channels():
    kernel = np.float32([1, 2, 4, 10, 20, 40]).reshape(1, 1, 2, 3).transpose(0, 1, 3, 2)  # two outputs of three inputs
    assert inflate_input(kernel, 3) is kernel
    grey = inflate_input(kernel, 1)
    assert grey.shape == (1, 1, 1, 2) and grey.dtype == np.float32 and grey.ravel().tolist() == [7, 70]
    five = inflate_input(kernel, 5)  # R G B R G, times 3 / 5
    np.testing.assert_allclose(five[0, 0, :, 0], np.array([1, 2, 4, 1, 2]) * 0.6, rtol=1e-7)
    six = inflate_input(kernel, 6)
    np.testing.assert_allclose(six[0, 0, :, 1], [5, 10, 20, 5, 10, 20], rtol=1e-7)
    np.testing.assert_allclose(six.sum(2), kernel.sum(2), rtol=1e-7)  # equal inputs give what they gave
    assert inflate_input(grey, 2).ravel().tolist() == [3.5, 35, 3.5, 35]
