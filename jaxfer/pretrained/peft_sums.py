"""Kinds of `peft` adapters that add to a layer's weight, as functions from the layer to what it becomes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from jaxfer.errors import InputError
from jaxfer.pretrained.peft_draws import LARGEST, permutation, uniform
from jaxfer.pretrained.peft_layer import Layer, Merged, by_module

TOKENS, TOKENS_OF_LORA = "trainable_tokens_delta", "token_adapter.trainable_tokens_delta"
HADA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
VERA = ("base_model.vera_A", "base_model.vera_B")


def lora(layer: Layer) -> Merged:
    """LoRA and DoRA of a dense layer, a convolution or an embedding; or the rows of tokens beside LoRA."""
    if TOKENS_OF_LORA in layer.tensors:
        indices = layer.config.get("trainable_token_indices")
        if isinstance(indices, Mapping):
            indices = next((own for name, own in indices.items() if layer.module.endswith(name)), None)
        return {"weight": _rows(layer, TOKENS_OF_LORA, indices)}
    if "lora_embedding_A" in layer.tensors:
        return {"weight": _embedding(layer)}
    a, b = layer.tensors["lora_A.weight"], layer.tensors["lora_B.weight"]
    if a.ndim == b.ndim == 4 and b.shape[2:] == (1, 1):
        b = b[:, :, 0, 0]
    fits = a.ndim in (2, 4) and b.ndim == 2 and a.shape[0] == b.shape[1]
    product = np.tensordot(b, a, 1) if fits else None
    if product is None or product.shape != layer.weight.shape:
        raise layer.refuse("lora_A.weight lora_B.weight")
    scale = layer.scale("lora_alpha", a.shape[0])
    weight = _without_start(layer, a.shape[0], scale).grown(product, scale)
    magnitude = layer.tensors.get("lora_magnitude_vector", layer.tensors.get("lora_magnitude_vector.weight"))
    if bool(layer.config.get("use_dora")) != (magnitude is not None):
        says = f"use_dora={layer.config.get('use_dora')!r}, {layer.module} has {'no' if magnitude is None else 'a'}"
        raise InputError(f"{layer.init}: adapter_config.json says {says} lora_magnitude_vector; download it again")
    shift = layer.tensors.get("lora_B.bias")
    if shift is None:
        return {"weight": weight if magnitude is None else _of_length(layer, weight, magnitude)}
    if magnitude is not None or layer.bias is None or shift.shape != layer.bias.shape:
        raise InputError(f"{layer.init}: lora_B.bias of {layer.module} has no bias to be added to; download it again")
    return {"weight": weight, "bias": layer.bias + scale * shift}


def _without_start(layer: Layer, rank: int, scale: float) -> Layer:
    """The layer less what PiSSA's or OLoRA's start took out of its weight, as peft does whenever it loads the file."""
    start = layer.config.get("init_lora_weights")
    if start not in ("pissa", "olora"):
        return layer
    if layer.weight.ndim != 2:
        raise InputError(f"{layer.init}: init_lora_weights={start!r} of {layer.module}, which is no dense layer")
    if start == "pissa":
        u, s, v = np.linalg.svd(layer.weight, full_matrices=False)
        taken = (u[:, :rank] * s[:rank]) @ v[:rank]
    else:
        q, r = np.linalg.qr(layer.weight)
        taken = scale * q[:, :rank] @ r[:rank]
    return layer._replace(weight=layer.weight - taken)


def _of_length(layer: Layer, weight: np.ndarray, magnitude: np.ndarray) -> np.ndarray:
    """The weight, each output's of the length that DoRA learned."""
    if magnitude.size != len(weight):
        shapes = f"{list(magnitude.shape)} for {len(weight)} outputs of {layer.module}"
        raise InputError(f"{layer.init}: expected a magnitude for each output, found {shapes}")
    flat = weight.reshape(len(weight), -1)
    lengths = np.maximum(np.sqrt((flat**2).sum(1)), np.finfo(np.float32).tiny)
    return (magnitude.reshape(-1, 1) * flat / lengths[:, None]).reshape(weight.shape)


def _embedding(layer: Layer) -> np.ndarray:
    """LoRA of an embedding [tokens, width]: scale * (B A)^T."""
    a, b = layer.tensors["lora_embedding_A"], layer.tensors["lora_embedding_B"]
    if layer.config.get("use_dora"):
        raise InputError(f"{layer.init}: DoRA of the embedding {layer.module} is not supported")
    if a.ndim != 2 or b.ndim != 2 or len(a) != b.shape[1] or (a.shape[1], len(b)) != layer.weight.shape:
        raise layer.refuse("lora_embedding_A lora_embedding_B")
    if layer.config.get("task_type") in ("CAUSAL_LM", "SEQ_2_SEQ_LM"):
        raise InputError(
            f"{layer.init}: LoRA of the embedding {layer.module} of a model whose output layer may be tied to it is "
            "not supported"
        )
    return layer.grown((b @ a).T, layer.scale("lora_alpha", len(a)))


def tokens(layer: Layer) -> Merged:
    """TRAINABLE_TOKENS: rows of an embedding are replaced."""
    return {"weight": _rows(layer, TOKENS, layer.config.get("token_indices"))}


def _rows(layer: Layer, name: str, indices: Any) -> np.ndarray:
    rows, size = layer.tensors[name], len(layer.weight)
    if not isinstance(indices, list) or not all(type(i) is int and 0 <= i < size for i in indices):
        raise InputError(f"{layer.init}: adapter_config.json has no indices of tokens below {size} for {layer.module}")
    if rows.shape != (len(indices), *layer.weight.shape[1:]):
        raise layer.refuse(name)
    weight = layer.weight.copy()
    weight[indices] = rows
    return weight


def adalora(layer: Layer) -> Merged:
    """AdaLoRA: B (A * E) * alpha / rank, ranks that training has pruned cut out of the file or zero in E."""
    a, b, e = (layer.tensors[f"lora_{name}"] for name in "ABE")
    if a.ndim != 2 or b.ndim != 2 or e.shape != (len(a), 1) or b.shape != (len(layer.weight), len(a)):
        raise layer.refuse("lora_A lora_B lora_E")
    if a.shape[1] != layer.flat.shape[1]:
        raise layer.refuse("lora_A lora_B lora_E")
    rank, alpha = layer.number("init_r", whole=True), layer.number("lora_alpha")
    scale = (alpha if alpha > 0 else rank) / (rank + 1e-5)  # peft's
    return {"weight": layer.grown((b @ (a * e)).reshape(layer.weight.shape), scale)}


def vera(layer: Layer) -> Merged:
    """VeRA on the first rows and columns of the matrices that all layers share."""
    (a, b), d, out = layer.shared.values(), layer.tensors["vera_lambda_d"], layer.tensors["vera_lambda_b"]
    rows, columns = layer.weight.shape[0], layer.weight[0].size
    if len(out) != rows or len(d) != len(a) or a.shape[1] < columns or len(b) < rows or layer.weight.ndim != 2:
        raise layer.refuse("vera_lambda_d vera_lambda_b")
    return {"weight": layer.grown((out[:, None] * b[:rows] * d) @ a[:, :columns], 1.0)}


def projections(
    init: str, config: Mapping[str, Any], own: Mapping[str, np.ndarray], shapes: Iterable[tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """VeRA's matrices of a file without them, from `projection_prng_key`: He's uniform, for the largest layer.

    Args:
      init: the adapter, for messages.
      config: its adapter_config.json.
      own: its tensors of one layer.
      shapes: [out, in] of all layers that it changes.
    """
    rank, seed = len(own["vera_lambda_d"]), config.get("projection_prng_key")
    if config.get("save_projection") is not False or config.get("r") != rank or seed is None:
        raise InputError(
            f"{init}: the file has no {VERA[0]} and {VERA[1]}, and adapter_config.json does not say how they are drawn "
            "(save_projection=false, r and projection_prng_key); save it with peft under save_projection=True"
        )
    out, width = (max(sizes) for sizes in zip(*(shape[:2] for shape in shapes), strict=True))
    pairs = [((rank, width), (6 / width) ** 0.5), ((out, rank), (6 / rank) ** 0.5)]
    return dict(zip(VERA, (x.astype(np.float64) for x in uniform(seed, pairs)), strict=True))


def loha(layer: Layer) -> Merged:
    """LoHa; of a convolution with `use_effective_conv2d` each factor is a core times two matrices."""
    w1_a, w1_b, w2_a, w2_b = (layer.tensors[name] for name in HADA)
    cores = [name for name in ("hada_t1", "hada_t2") if name in layer.tensors]
    if not (w1_a.shape == w2_a.shape and w1_b.shape == w2_b.shape and w1_a.ndim == w1_b.ndim == 2):
        raise layer.refuse(" ".join(HADA))
    if cores:
        fits = len(cores) == 2 and all(layer.tensors[core].shape[:2] == (len(w1_a), len(w1_b)) for core in cores)
        if not fits:
            raise layer.refuse(" ".join((*cores, *HADA)))
        product = _core(layer.tensors[cores[0]], w1_a, w1_b) * _core(layer.tensors[cores[1]], w2_a, w2_b)
    elif w1_a.shape[1] != len(w1_b):
        raise layer.refuse(" ".join(HADA))
    else:
        product = (w1_a @ w1_b) * (w2_a @ w2_b)
    if product.size != layer.weight.size:
        raise layer.refuse(" ".join(HADA))
    return {"weight": layer.grown(product.reshape(layer.weight.shape), layer.scale("alpha", len(w1_b)))}


def _core(core: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[out, in, h, w] of a core [r, r, h, w], a [r, out] and b [r, in]."""
    return np.einsum("ijkl,ip,jr->prkl", core, a, b, optimize=True)


def lokr(layer: Layer) -> Merged:
    """LoKr: a Kronecker product of two factors, each whole, of two parts, or of two parts and a core."""
    names, ranks = [], []

    def factor(name: str) -> np.ndarray:
        whole = name in layer.tensors
        parts = [name] if whole else [f"{name}_a", f"{name}_b"]
        names.extend(part for part in parts if part in layer.tensors)
        if not all(part in layer.tensors for part in parts):
            raise InputError(f"{layer.init}: {layer.module} has no {name}; download the adapter again")
        if whole:
            return layer.tensors[name]
        a, b = (layer.tensors[part] for part in parts)
        ranks.append(len(b))
        core = layer.tensors.get(name.replace("w", "t"))
        fits = a.shape[1:] == b.shape[:1] if core is None else core.shape[:2] == (len(a), len(b))
        if not fits:
            raise layer.refuse(" ".join(names))
        return a @ b if core is None else _core(core, a, b)

    first, second = factor("lokr_w1"), factor("lokr_w2")
    product = np.kron(first.reshape(*first.shape, *(1,) * (second.ndim - 2)), second)
    if product.size != layer.weight.size:
        raise layer.refuse(" ".join(names))
    # Both factors whole: peft's scale is still that of the config.
    rank = ranks[0] if ranks else by_module(layer.config.get("rank_pattern"), layer.module, layer.config.get("r"))
    return {"weight": layer.grown(product.reshape(layer.weight.shape), layer.scale("alpha", rank))}


def fourier(layer: Layer) -> Merged:
    """FourierFT: the real part of the inverse transform of a spectrum, known at entries that a seed draws."""
    spectrum = layer.tensors["fourierft_spectrum"]
    if layer.weight.ndim != 2 or spectrum.ndim != 1 or not spectrum.size <= layer.weight.size < LARGEST:
        raise layer.refuse("fourierft_spectrum")
    seed, scale = layer.number("random_loc_seed", whole=True), layer.number("scaling")
    dense = np.zeros(layer.weight.size)
    dense[permutation(seed, dense.size, spectrum.size)] = spectrum
    return {"weight": layer.grown(np.fft.ifft2(dense.reshape(layer.weight.shape)).real, scale)}


def miss(layer: Layer) -> Merged:
    """MiSS: a matrix [rank, out] added to each `rank` inputs; its forms "mini" (repeated) and "bat" (W B + B)."""
    block, form, (rows, columns) = layer.tensors["miss_block"], layer.config.get("init_weights"), layer.weight.shape[:2]
    if block.ndim != (3 if form == "bat" else 2) or not block.size:
        raise layer.refuse("miss_block")
    rank = block.shape[-1] if form == "bat" else len(block)
    if form == "mini" and rows % block.shape[1] == 0:
        block = np.tile(block, (1, rows // block.shape[1]))
    wanted = (rows // rank, rank, rank) if form == "bat" else (rank, rows)
    if layer.weight.ndim != 2 or block.shape != wanted or form == "bat" and columns % rank:
        raise layer.refuse("miss_block")
    if form != "bat":
        return {"weight": layer.grown(block.T[:, np.arange(columns) % rank], 1.0)}
    parted = layer.weight.reshape(rows // rank, rank, columns // rank, rank).transpose(2, 0, 1, 3)
    update = (parted @ block + block).transpose(1, 2, 0, 3)
    return {"weight": layer.grown(update.reshape(layer.weight.shape), 1.0)}
