"""How each method's parameters of a layer are written as `peft` has them: tensors in torch's axes, and the config."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxfer.errors import InputError
from jaxfer.pretrained.layout import CONV

Part = Mapping[str, np.ndarray]
Tensors = dict[str, np.ndarray]


class Written(NamedTuple):
    """How a method is written.

    Attributes:
      kind: `peft_type`.
      tensors: (the method's parameters of a layer, whether that is a convolution) -> {what stands behind the layer's
        name: tensor}; None where peft has no word for it.
      config: (the method's options, {module: its parameters}, {module whose tensor several layers share: how many})
        -> fields of adapter_config.json.
      shared: the method's state beside the parameters -> {name: tensor} of all layers.
    """

    kind: str
    tensors: Callable[[Part, bool], Tensors | None]
    config: Callable[[Mapping[str, Any], Mapping[str, Part], Mapping[str, int]], dict[str, Any]]
    shared: Callable[[Any], Tensors] = lambda extra: {}


def factors(a: np.ndarray, b: np.ndarray, *, conv: bool) -> tuple[np.ndarray, np.ndarray]:
    """(A, B) in torch's axes: linear [r, in] and [out, r], convolution [r, in, h, w] and [out, r, 1, 1]."""
    if conv:
        return CONV.store(a), b.T[:, :, None, None]
    rank = b.shape[0]
    return a.reshape(-1, rank).T, b.reshape(rank, -1).T


def low_rank(part: Part, conv: bool) -> Tensors:
    """LoRA's, and with a length for each output DoRA's."""
    a, b = factors(part["a"], part["b"], conv=conv)
    found = {"lora_A.weight": a, "lora_B.weight": b}
    if "magnitude" in part:
        found["lora_magnitude_vector"] = part["magnitude"].reshape((1, -1, 1, 1) if conv else -1)
    return found


def _vectors(part: Part, conv: bool) -> Tensors | None:
    return None if conv else {"vera_lambda_d": part["d"], "vera_lambda_b": part["b"].ravel()}


def _scales(part: Part, conv: bool) -> Tensors | None:
    if len(part) > 1:  # a layer whose inputs and outputs are scaled
        return None
    ((name, scale),) = part.items()
    shape = (1, -1, 1, 1) if conv else (1, -1) if name == "inputs" else (-1, 1)
    return {"ia3_l": scale.reshape(shape)}


def _rotations(part: Part, conv: bool) -> Tensors:
    return {"oft_R.weight": part["q"]}


def _hadamard(part: Part, conv: bool) -> Tensors:
    found = {}
    for i in (1, 2):
        a, b = factors(part[f"a_{i}"], part[f"b_{i}"], conv=conv)
        found |= {f"hada_w{i}_a": b.reshape(b.shape[:2]), f"hada_w{i}_b": a.reshape(len(a), -1)}
    return found


def _kronecker(part: Part, conv: bool) -> Tensors:
    if "d" in part:
        second = {"lokr_w2": CONV.store(part["d"]) if conv else part["d"].T}
    else:
        a = CONV.store(part["a"]) if conv else part["a"].T
        second = {"lokr_w2_a": part["b"].T, "lokr_w2_b": a.reshape(len(a), -1)}
    return {"lokr_w1": part["c"].T, **second}


def _of_rank(options: Mapping[str, Any], layers: Mapping[str, Part], fused: Mapping[str, int]) -> dict[str, Any]:
    return {"r": options["rank"], "alpha": options["alpha"], "rank_dropout": 0.0, "module_dropout": 0.0}


def _lora(options: Mapping[str, Any], layers: Mapping[str, Part], fused: Mapping[str, int]) -> dict[str, Any]:
    own = {"r": options["rank"], "lora_alpha": options["alpha"], "lora_dropout": 0.0, "bias": "none"}
    stabilised = options["scaling"] == "rank_stabilised"
    # The rank of a fused layer is that of its parts together, the scale theirs.
    powers = {"rank": 1, "alpha": 0.5 if stabilised else 1} if fused else {}
    patterns = {
        f"{name}_pattern": {module: parts**power * options[name] for module, parts in fused.items()}
        for name, power in powers.items()
    }
    return {**own, "use_rslora": stabilised, **patterns}


def _dora(options: Mapping[str, Any], layers: Mapping[str, Part], fused: Mapping[str, int]) -> dict[str, Any]:
    return {"r": options["rank"], "lora_alpha": options["alpha"], "lora_dropout": 0.0, "bias": "none", "use_dora": True}


def _vera(options: Mapping[str, Any], layers: Mapping[str, Part], fused: Mapping[str, int]) -> dict[str, Any]:
    own = {"r": options["rank"], "d_initial": options["initial"], "vera_dropout": 0.0, "bias": "none"}
    return {**own, "save_projection": True, "projection_prng_key": 0}


def _ia3(options: Mapping[str, Any], layers: Mapping[str, Part], fused: Mapping[str, int]) -> dict[str, Any]:
    return {"feedforward_modules": sorted(module for module, part in layers.items() if "inputs" in part)}


def _oft(options: Mapping[str, Any], layers: Mapping[str, Part], fused: Mapping[str, int]) -> dict[str, Any]:
    sizes = {(1 + math.isqrt(1 + 8 * part["q"].shape[1])) // 2 for part in layers.values()}
    if sizes != {options["block"]}:  # a layer whose channels the block does not divide has a smaller one
        found = ", ".join(map(str, sorted(sizes)))
        raise InputError(f"--format=peft: peft has blocks of one size, found {found}; use --format=hf")
    own = {"r": 0, "oft_block_size": options["block"], "module_dropout": 0.0, "bias": "none"}
    series = {"use_cayley_neumann": bool(terms := options["neumann"])}
    series |= {"num_cayley_neumann_terms": terms} if terms else {}
    return {**own, "coft": False, "block_share": False, **series}


WRITTEN = {
    "lora": Written("LORA", low_rank, _lora),
    "dora": Written("LORA", low_rank, _dora),
    "vera": Written(
        "VERA", _vectors, _vera, lambda extra: {f"base_model.vera_{x.upper()}": np.asarray(extra[x]).T for x in "ab"}
    ),
    "ia3": Written("IA3", _scales, _ia3),
    "oft": Written("OFT", _rotations, _oft),
    "loha": Written("LOHA", _hadamard, _of_rank),
    "lokr": Written(
        "LOKR",
        _kronecker,
        lambda *given: {**_of_rank(*given), "decompose_both": False, "decompose_factor": -1},
    ),
}
