"""What each kind of `peft` adapter makes of a layer: from its tensors and the layer's weight to the merged one.

Every kind here acts on single layers, so the merged model computes what the adapted one does. Formulas are those of
peft's layers, whose papers the methods of the same names in `jaxfer/methods` cite.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxfer.errors import InputError

# Limits on a stranger's name pattern; peft itself writes plain names.
LONGEST_PATTERN, REPETITIONS, CHOICES = 500, 3, 4
MERGE = "merge it with peft (`merge_and_unload`) and give the merged model"


class Layer(NamedTuple):
    """A layer that an adapter changes.

    Attributes:
      init: the adapter, for messages.
      config: its adapter_config.json.
      module: the layer's name.
      tensors: {what stands behind the name: tensor} of the adapter, float64.
      shared: {name: tensor} of all layers.
      key: of the layer's weight in the base.
      weight: [out, in], or [out, in, h, w], float64.
      bias: [out], None without one.
    """

    init: str
    config: Mapping[str, Any]
    module: str
    tensors: Mapping[str, np.ndarray]
    shared: Mapping[str, np.ndarray]
    key: str
    weight: np.ndarray
    bias: np.ndarray | None

    def grown(self, update: np.ndarray, scale: float) -> np.ndarray:
        """weight + scale * update, which is checked."""
        with np.errstate(over="ignore", invalid="ignore"):
            update = scale * update
            finite = np.isfinite(update.astype(np.float32)).all()
        if not finite:
            raise InputError(
                f"{self.init}: the update of {self.module}, scaled by {scale:g}, is not finite in float32; correct "
                "lora_alpha, or download the adapter again"
            )
        return self.weight + update

    def refuse(self, names: str) -> InputError:
        """An error for tensors that don't fit the layer."""
        shapes = " and ".join(f"{name} {list(self.tensors[name].shape)}" for name in names.split())
        shapes = shapes.replace("lora_A.weight", "A").replace("lora_B.weight", "B")
        return InputError(
            f"{self.init}: {shapes} of {self.module} don't form an update of {self.key} {list(self.weight.shape)}"
        )

    def scale(self, alpha: str, rank: int) -> float:
        """alpha / rank of this module, from its own or the common ones; with `use_rslora` alpha / sqrt(rank)."""
        config = self.config
        try:
            r = _by_module(config.get("rank_pattern"), self.module, config.get("r"))
            value = float(_by_module(config.get("alpha_pattern"), self.module, config.get(alpha)))
        except (TypeError, ValueError, re.error) as error:
            where = f"adapter_config.json has no rank and alpha for {self.module} ({error})"
            raise InputError(f"{self.init}: {where}") from None
        if r != rank:
            raise InputError(
                f"{self.init}: adapter_config.json gives {self.module} rank {r!r}, its tensors have {rank}"
            )
        return value / (math.sqrt(rank) if config.get("use_rslora") else rank)


Merged = tuple[np.ndarray, np.ndarray | None]


class Kind(NamedTuple):
    """A kind of adapter.

    Attributes:
      merge: a layer -> its merged (weight, bias).
      tensors: what may stand behind a layer's name.
      needs: of these, those that every layer has.
      reads: fields of adapter_config.json that `merge` uses.
      leaves: fields that only affect training.
      fixed: {field: the values under which `merge` is right}.
      shared: names of tensors of all layers.
    """

    merge: Callable[[Layer], Merged]
    tensors: tuple[str, ...]
    needs: tuple[str, ...]
    reads: tuple[str, ...] = ()
    leaves: tuple[str, ...] = ()
    fixed: Mapping[str, tuple[Any, ...]] = {}
    shared: tuple[str, ...] = ()


def _lora(layer: Layer) -> Merged:
    a, b = layer.tensors["lora_A.weight"], layer.tensors["lora_B.weight"]
    if a.ndim == b.ndim == 4 and b.shape[2:] == (1, 1):
        b = b[:, :, 0, 0]
    fits = a.ndim in (2, 4) and b.ndim == 2 and a.shape[0] == b.shape[1]
    product = np.tensordot(b, a, 1) if fits else None
    if product is None or product.shape != layer.weight.shape:
        raise layer.refuse("lora_A.weight lora_B.weight")
    weight = layer.grown(product, layer.scale("lora_alpha", a.shape[0]))
    magnitude = layer.tensors.get("lora_magnitude_vector", layer.tensors.get("lora_magnitude_vector.weight"))
    if bool(layer.config.get("use_dora")) != (magnitude is not None):
        says = f"use_dora={layer.config.get('use_dora')!r}, {layer.module} has {'no' if magnitude is None else 'a'}"
        raise InputError(f"{layer.init}: adapter_config.json says {says} lora_magnitude_vector; download it again")
    return (weight if magnitude is None else _of_length(layer, weight, magnitude)), layer.bias


def _of_length(layer: Layer, weight: np.ndarray, magnitude: np.ndarray) -> np.ndarray:
    """The weight, each output's of the length that DoRA learned."""
    if magnitude.size != len(weight):
        shapes = f"{list(magnitude.shape)} for {len(weight)} outputs of {layer.module}"
        raise InputError(f"{layer.init}: expected a magnitude for each output, found {shapes}")
    flat = weight.reshape(len(weight), -1)
    lengths = np.maximum(np.sqrt((flat**2).sum(1)), np.finfo(np.float32).tiny)
    return (magnitude.reshape(-1, 1) * flat / lengths[:, None]).reshape(weight.shape)


def _vera(layer: Layer) -> Merged:
    (a, b), d, out = layer.shared.values(), layer.tensors["vera_lambda_d"], layer.tensors["vera_lambda_b"]
    rows, columns = layer.weight.shape[0], layer.weight[0].size
    if len(out) != rows or len(d) != len(a) or a.shape[1] < columns or len(b) < rows or layer.weight.ndim != 2:
        raise layer.refuse("vera_lambda_d vera_lambda_b")
    return layer.grown((out[:, None] * b[:rows] * d) @ a[:, :columns], 1.0), layer.bias


def _ia3(layer: Layer) -> Merged:
    scale, weight, bias = layer.tensors["ia3_l"].ravel(), layer.weight, layer.bias
    reads = _named(layer.config.get("feedforward_modules"), layer.module)
    if scale.size != weight.shape[1 if reads else 0]:
        raise layer.refuse("ia3_l")
    if reads:
        return weight * scale.reshape(1, -1, *(1,) * (weight.ndim - 2)), bias
    return weight * scale.reshape(-1, *(1,) * (weight.ndim - 1)), None if bias is None else bias * scale


def _oft(layer: Layer) -> Merged:
    q, (rows, columns) = layer.tensors["oft_R.weight"], layer.weight.shape[:2]
    size = (1 + math.isqrt(1 + 8 * q.shape[-1])) // 2
    if layer.weight.ndim != 2 or columns % size or len(q) not in (1, columns // size):
        raise layer.refuse("oft_R.weight")
    upper = np.zeros((len(q), size, size))
    upper[:, *np.triu_indices(size, 1)] = q
    skew, one = upper - upper.swapaxes(1, 2), np.eye(size)
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
    turn = np.broadcast_to(turn, (columns // size, size, size))
    weight = np.einsum("okj,kij->oki", layer.weight.reshape(rows, -1, size), turn)
    return weight.reshape(layer.weight.shape), layer.bias


def _loha(layer: Layer) -> Merged:
    w1_a, w1_b, w2_a, w2_b = (layer.tensors[name] for name in HADA)
    if not (w1_a.shape == w2_a.shape and w1_b.shape == w2_b.shape and w1_a.shape[-1] == len(w1_b)):
        raise layer.refuse(" ".join(HADA))
    product = (w1_a @ w1_b) * (w2_a @ w2_b)
    if product.size != layer.weight.size:
        raise layer.refuse(" ".join(HADA))
    return layer.grown(product.reshape(layer.weight.shape), layer.scale("alpha", len(w1_b))), layer.bias


def _lokr(layer: Layer) -> Merged:
    names, ranks = [], []

    def factor(name: str) -> np.ndarray:
        whole = name in layer.tensors
        parts = [name] if whole else [f"{name}_a", f"{name}_b"]
        names.extend(part for part in parts if part in layer.tensors)
        if not all(part in layer.tensors for part in parts):
            raise InputError(f"{layer.init}: {layer.module} has no {name}; download the adapter again")
        if whole:
            return layer.tensors[name]
        ranks.append(layer.tensors[parts[1]].shape[0])
        return layer.tensors[parts[0]] @ layer.tensors[parts[1]]

    first, second = factor("lokr_w1"), factor("lokr_w2")
    product = np.kron(first.reshape(*first.shape, *(1,) * (second.ndim - 2)), second)
    if product.size != layer.weight.size:
        raise layer.refuse(" ".join(names))
    # Both factors whole: peft's scale is still that of the config.
    rank = ranks[0] if ranks else _by_module(layer.config.get("rank_pattern"), layer.module, layer.config.get("r"))
    return layer.grown(product.reshape(layer.weight.shape), layer.scale("alpha", rank)), layer.bias


def _norm(layer: Layer) -> Merged:
    weight, bias = (layer.tensors.get(f"ln_tuning_layers.{name}") for name in ("weight", "bias"))
    if weight is None or weight.shape != layer.weight.shape:
        raise layer.refuse("ln_tuning_layers.weight")
    return weight, layer.bias if bias is None else bias


HADA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
DROPPED = ("module_dropout", "rank_dropout", "init_weights")
# Other initialisations (PiSSA, OLoRA, LoftQ, ...) change the base model's own weights when peft loads them.
PLAIN_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")
KINDS = {
    "LORA": Kind(
        _lora,
        tensors=("lora_A.weight", "lora_B.weight", "lora_magnitude_vector", "lora_magnitude_vector.weight"),
        needs=("lora_A.weight", "lora_B.weight"),
        reads=("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora"),
        leaves=("lora_dropout", "eva_config", "loftq_config", "corda_config", "lora_ga_config", "qalora_group_size"),
        fixed={"init_lora_weights": PLAIN_STARTS},
    ),
    "VERA": Kind(
        _vera,
        tensors=("vera_lambda_d", "vera_lambda_b"),
        needs=("vera_lambda_d", "vera_lambda_b"),
        reads=("r",),
        leaves=("vera_dropout", "d_initial", "projection_prng_key", "save_projection", "init_weights"),
        shared=("base_model.vera_A", "base_model.vera_B"),
    ),
    "IA3": Kind(_ia3, ("ia3_l",), ("ia3_l",), reads=("feedforward_modules",), leaves=("init_ia3_weights",)),
    "OFT": Kind(
        _oft,
        tensors=("oft_R.weight",),
        needs=("oft_R.weight",),
        reads=("r", "oft_block_size", "block_share", "use_cayley_neumann", "num_cayley_neumann_terms"),
        leaves=("module_dropout", "init_weights", "eps"),
        fixed={"coft": (None, False)},
    ),
    "LOHA": Kind(
        _loha, HADA, HADA, ("r", "alpha", "rank_pattern", "alpha_pattern"), (*DROPPED, "use_effective_conv2d")
    ),
    "LOKR": Kind(
        _lokr,
        tensors=("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b"),
        needs=(),
        reads=("r", "alpha", "rank_pattern", "alpha_pattern"),
        leaves=(*DROPPED, "decompose_both", "decompose_factor", "rank_dropout_scale", "use_effective_conv2d"),
    ),
    "LN_TUNING": Kind(_norm, ("ln_tuning_layers.weight", "ln_tuning_layers.bias"), needs=("ln_tuning_layers.weight",)),
}


def _named(modules: Any, module: str) -> bool:
    """Whether peft's list of name ends, or its pattern, is of the module."""
    if isinstance(modules, str):
        return quick(modules) and re.fullmatch(modules, module) is not None
    return any(module.endswith(name) for name in modules or ())


def _by_module(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """Looks up a module's value as peft does: the first pattern that matches the end of its name."""
    for pattern, value in (patterns or {}).items():
        if not quick(pattern):
            raise ValueError(f"the pattern {pattern[:80]!r} may take forever to match; name the modules")
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def quick(pattern: str) -> bool:
    """Whether an untrusted pattern matches in bounded time: no repeated groups, few repetitions and choices."""
    bare = re.sub(r"\\.|\[\^?\]?[^]]*\]", "x", pattern, flags=re.DOTALL).replace("(?:", "(")
    return (
        len(pattern) <= LONGEST_PATTERN
        and not re.search(r"\)[*+?{]*[*+{]|\(\?", bare)
        and len(re.findall(r"[*+{]", bare)) <= REPETITIONS
        and max(bare.count("?"), bare.count("(")) <= CHOICES
    )
