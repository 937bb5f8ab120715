"""Layers in plain numpy float64, written from their definitions: what the ports are compared with."""

from __future__ import annotations

import numpy as np
from scipy.special import erf


def conv(x: np.ndarray, kernel: np.ndarray, stride: int = 1, padding: int = 0) -> np.ndarray:
    """[b, h, w, in] with [kh, kw, in, out], window by window."""
    kh, kw = kernel.shape[:2]
    x = np.pad(np.asarray(x, np.float64), ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    rows, cols = (x.shape[1] - kh) // stride + 1, (x.shape[2] - kw) // stride + 1
    y = np.zeros((x.shape[0], rows, cols, kernel.shape[3]))
    for i in range(rows):
        for j in range(cols):
            window = x[:, i * stride : i * stride + kh, j * stride : j * stride + kw]
            y[:, i, j] = np.einsum("bhwi,hwio->bo", window, np.asarray(kernel, np.float64))
    return y


def max_pool(x: np.ndarray, size: int, stride: int, padding: int) -> np.ndarray:
    """[b, h, w, c], padded with -inf."""
    pad = (padding, padding)
    x = np.pad(x, ((0, 0), pad, pad, (0, 0)), constant_values=-np.inf)
    rows, cols = (x.shape[1] - size) // stride + 1, (x.shape[2] - size) // stride + 1
    windows = [
        [x[:, i * stride : i * stride + size, j * stride : j * stride + size].max((1, 2)) for j in range(cols)]
        for i in range(rows)
    ]
    return np.array(windows).transpose(2, 0, 1, 3)


def batch_norm(x: np.ndarray, scale, bias, mean, var, epsilon: float = 1e-5) -> np.ndarray:
    """With running statistics."""
    return (x - mean) / np.sqrt(np.asarray(var, np.float64) + epsilon) * scale + bias


def layer_norm(x: np.ndarray, scale, bias, epsilon: float) -> np.ndarray:
    """Over the last axis, biased variance."""
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon) * scale + bias


def gelu(x: np.ndarray) -> np.ndarray:
    """The exact one."""
    return x * 0.5 * (1 + erf(x / np.sqrt(2)))


def attention(query: np.ndarray, key: np.ndarray, value: np.ndarray) -> np.ndarray:
    """[b, tokens, heads, d] each, one sample and head at a time."""
    y = np.zeros_like(query)
    for b in range(query.shape[0]):
        for h in range(query.shape[2]):
            scores = query[b, :, h] @ key[b, :, h].T / np.sqrt(query.shape[-1])
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            y[b, :, h] = weights / weights.sum(-1, keepdims=True) @ value[b, :, h]
    return y
