"""Kinds of `peft` adapters that scale, rotate or replace a layer's weight, as functions to what it becomes."""

from __future__ import annotations

import math

import numpy as np

from jaxfer.errors import InputError
from jaxfer.pretrained.peft_layer import Layer, Merged, named

NORM = "ln_tuning_layers."
STATISTICS = ("running_mean", "running_var")


def ia3(layer: Layer) -> Merged:
    """(IA)^3: scales of what a layer reads, or of what it gives."""
    scale, weight, bias = layer.tensors["ia3_l"].ravel(), layer.weight, layer.bias
    try:
        reads = named(layer.config.get("feedforward_modules"), layer.module)
    except ValueError as error:
        raise InputError(f"{layer.init}: adapter_config.json has no feedforward_modules ({error})") from None
    if scale.size != weight.shape[1 if reads else 0]:
        raise layer.refuse("ia3_l")
    if reads:
        return {"weight": weight * scale.reshape(1, -1, *(1,) * (weight.ndim - 2))}
    made = {"weight": weight * scale.reshape(-1, *(1,) * (weight.ndim - 1))}
    return made if bias is None else {**made, "bias": bias * scale}


def oft(layer: Layer) -> Merged:
    """OFT: blocks of what a layer reads are rotated."""
    q, columns = layer.tensors["oft_R.weight"], layer.flat.shape[1]
    if layer.weight.ndim == 4 and layer.weight[0, 0].size > 1:
        raise InputError(
            f"{layer.init}: OFT of {layer.module}, a convolution of {layer.weight.shape[2]} x {layer.weight.shape[3]}, "
            "is not supported: peft adds its rotated windows up where they overlap, which no kernel computes, and "
            "`merge_and_unload` gives another model"
        )
    size = (1 + math.isqrt(1 + 8 * q.shape[-1])) // 2
    if q.ndim != 2 or columns % size or len(q) not in (1, columns // size):
        raise layer.refuse("oft_R.weight")
    upper = np.zeros((len(q), size, size))
    upper[:, *np.triu_indices(size, 1)] = q
    skew, one = upper - upper.swapaxes(1, 2), np.eye(size)
    if layer.config.get("coft"):  # no longer than eps allows
        most = layer.number("eps") / math.sqrt(len(q))
        lengths = np.sqrt((skew**2).sum((1, 2), keepdims=True))
        skew = np.where(lengths <= most, skew, most * skew / np.maximum(lengths, np.finfo(np.float64).tiny))
    if layer.config.get("use_cayley_neumann", True):  # the series of the transpose, cut short
        terms, turn, power = layer.config.get("num_cayley_neumann_terms", 5), one, skew
        if terms > 1:
            turn = one + 2 * skew
        if terms > 2:  # peft's 3 terms are its 4
            for _ in range(max(terms, 4) - 3):
                power = power @ skew
                turn = turn + 2 * power
            turn = turn + power @ skew
    else:
        turn = np.linalg.solve(one + skew, one - skew)
    return {
        "weight": _turned(layer.flat, np.broadcast_to(turn, (columns // size, size, size))).reshape(layer.weight.shape)
    }


def _turned(flat: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """[out, in] W R^T of rotations [blocks, size, size] on R's diagonal."""
    blocks, size, _ = turns.shape
    return np.einsum("okj,kij->oki", flat.reshape(len(flat), blocks, size), turns).reshape(flat.shape)


def boft(layer: Layer) -> Merged:
    """BOFT: rotations of blocks, one after the other, each of inputs that a butterfly has shuffled; then scales."""
    r, scale, flat = layer.tensors["boft_R"], layer.tensors["boft_s"].ravel(), layer.flat
    if r.ndim != 4 or r.shape[2] != r.shape[3] or r.shape[1] * r.shape[2] != flat.shape[1] or scale.size != len(flat):
        raise layer.refuse("boft_R boft_s")
    factors, blocks, size, _ = r.shape
    if factors > 1 and (size % 2 or blocks % 2 ** (factors - 1)):
        raise layer.refuse("boft_R boft_s")
    skew, one = (r - r.swapaxes(2, 3)) / 2, np.eye(size)
    turns = np.linalg.solve(one + skew, one - skew)
    for i, turn in enumerate(turns):
        order = np.arange(flat.shape[1])
        if factors > 1:  # within 2^i blocks side by side, the even halves before the odd ones
            halves = order.reshape(blocks >> i, -1, size // 2)
            order = np.concatenate([halves[:, 0::2], halves[:, 1::2]], 1).ravel()
        flat = _turned(flat[:, np.argsort(order)], turn)[:, order]
    return {"weight": (flat * scale[:, None]).reshape(layer.weight.shape)}


def hra(layer: Layer) -> Merged:
    """HRA: reflections of what a layer reads; with `apply_GS` by vectors made orthogonal."""
    u, flat = layer.tensors["hra_u"], layer.flat
    if u.ndim != 2 or len(u) != flat.shape[1]:
        raise layer.refuse("hra_u")
    if layer.config.get("apply_GS"):
        u = np.linalg.qr(u)[0]
        return {"weight": (flat - 2 * flat @ u @ u.T).reshape(layer.weight.shape)}
    for vector in (u / np.linalg.norm(u, axis=0)).T:
        flat = flat - 2 * np.outer(flat @ vector, vector)
    return {"weight": flat.reshape(layer.weight.shape)}


def norm(layer: Layer) -> Merged:
    """LN_TUNING: the whole layer is replaced, running statistics too."""
    found = {name.removeprefix(NORM): tensor for name, tensor in layer.tensors.items()}
    weight = found["weight"].T if layer.turned else found["weight"]
    if weight.shape != layer.weight.shape:
        raise layer.refuse(f"{NORM}weight")
    kept = {name: found[name] for name in ("bias", *STATISTICS) if name in found}
    return {"weight": weight, **kept}
