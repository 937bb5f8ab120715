"""Surgery: adapt weights to another image size or channel count. Pure functions on NumPy arrays in jaxfer's axes."""

from __future__ import annotations

import math

import numpy as np

from jaxfer.errors import InputError
from jaxfer.models.positions import cubic_weights, linear_weights


def resize_positions(
    positions: np.ndarray, old: tuple[int, int] | None, new: tuple[int, int], *, extra: int
) -> np.ndarray:
    """Resizes position embeddings to another grid of patches (Dosovitskiy et al., 2020, arXiv:2010.11929, section 3.2).

    Bicubic, as `torch.nn.functional.interpolate(mode="bicubic", align_corners=False)`, without anti-aliasing.

    Args:
      positions: [1, extra + height * width, channels], patches row-major after the extra tokens.
      old: (height, width) of the present grid; None for a square one.
      new: (height, width) of the new grid.
      extra: leading tokens to keep unchanged: 1 for a class token, 2 with a distillation token, 0 for none.

    Returns:
      [1, extra + new height * new width, channels] in the dtype of `positions`.

    Raises:
      InputError: the tokens do not form this grid.
    """
    patches = positions.shape[1] - extra
    old = old or (math.isqrt(max(patches, 0)),) * 2
    if positions.shape[0] != 1 or patches < 1 or old[0] * old[1] != patches:
        raise InputError(
            f"expected position embeddings [1, {extra} + {old[0]} * {old[1]}, channels], found "
            f"{list(positions.shape)}; give the checkpoint's image size and patch"
        )
    if tuple(old) == tuple(new):
        return positions
    grid = positions[0, extra:].reshape(*old, -1).astype(np.float64)
    rows, columns = cubic_weights(old[0], new[0]), cubic_weights(old[1], new[1])
    resized = np.einsum("yh,xw,hwc->yxc", rows, columns, grid, optimize=True).reshape(1, -1, grid.shape[-1])
    return np.concatenate([positions[:, :extra], resized.astype(positions.dtype)], axis=1)


def cut_or_stretched(positions: np.ndarray, old: tuple[int, int], new: tuple[int, int], *, extra: int) -> np.ndarray:
    """Position embeddings for another grid, as Gong et al., 2021, arXiv:2104.01778, sec. 2.2 have them.

    Along each axis, the middle of a longer one is cut out, and a shorter one is stretched bilinearly, as
    `torch.nn.functional.interpolate(mode="bilinear", align_corners=False)`.

    Args:
      positions: [1, extra + old[0] * old[1], channels], row-major after the extra tokens.
      old: the present grid.
      new: the new one.
      extra: leading tokens to keep unchanged.

    Raises:
      InputError: the tokens do not form this grid.
    """
    if positions.shape[:2] != (1, extra + old[0] * old[1]):
        raise InputError(
            f"expected position embeddings [1, {extra} + {old[0]} * {old[1]}, channels], found {list(positions.shape)}"
        )
    grid = positions[0, extra:].reshape(*old, -1).astype(np.float64)
    for axis in (0, 1):
        if new[axis] < old[axis]:
            begin = old[axis] // 2 - new[axis] // 2
            grid = grid.take(range(begin, begin + new[axis]), axis)
        else:
            grid = np.moveaxis(np.tensordot(linear_weights(old[axis], new[axis]), grid, (1, axis)), 0, axis)
    changed = grid.reshape(1, -1, grid.shape[-1]).astype(positions.dtype)
    return np.concatenate([positions[:, :extra], changed], axis=1)


def inflate_input(kernel: np.ndarray, channels: int) -> np.ndarray:
    """Adapts a first convolution to another number of input channels, as timm does (`timm/models/_manipulate.py`).

    For one channel, the kernel is summed over its inputs: a grey image gives the same output as an RGB image of three
    equal channels. For n channels, the kernel's c channels are repeated in turn (R, G, B, R, ...) and scaled by c / n:
    if n is a multiple of c, equal channels give the same output as before.

    Args:
      kernel: [kh, kw, c, out].
      channels: n, at least 1.

    Returns:
      [kh, kw, n, out] in the dtype of `kernel`.
    """
    present = kernel.shape[2]
    if channels == present:
        return kernel
    if channels == 1:
        return kernel.sum(axis=2, keepdims=True, dtype=np.float64).astype(kernel.dtype)
    repeated = kernel[:, :, np.arange(channels) % present].astype(np.float64)
    return (repeated * (present / channels)).astype(kernel.dtype)
