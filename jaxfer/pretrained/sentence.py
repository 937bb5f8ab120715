"""Read a sentence-transformers folder: the layers behind the encoder, stated by modules.json and the modules' files.

A pooling follows the encoder, then at most one dense layer and scaling to length 1; a `bert` port computes all of
them. jaxfer's exports append the head as another dense layer.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any

from etils import epath

from jaxfer.errors import InputError
from jaxfer.pretrained.formats import reading

MODULES, POOLING = "modules.json", "1_Pooling/config.json"
DENSE = "2_Dense/model.safetensors"  # the head of a jaxfer export, under these keys
DENSE_KEYS = {"linear.weight": "classifier.weight", "linear.bias": "classifier.bias"}
PREFIX = "dense."  # of keys of the dense layer between pooling and head
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
# The fields of 1_Pooling/config.json before sentence-transformers 6, in its order.
FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
# By the last name in `activation_function`.
ACTIVATIONS = {"Identity": "identity", "Tanh": "tanh", "ReLU": "relu", "GELU": "gelu", "SiLU": "silu"}
CHAINS = ("Pooling", "Pooling Dense", "Pooling Normalize", "Pooling Dense Normalize")
READ = "jaxfer reads a Transformer, a Pooling, at most one Dense and a Normalize, in this order"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tail:
    """The layers behind the encoder.

    Attributes:
      pool: the pooling, several joined by `+`, under the names of sentence-transformers; None if not stated.
      dense: options of the port for the dense layer; {} without one.
      weights: the dense layer's weights file.
      normalize: whether the result is scaled to length 1.
    """

    pool: str | None = None
    dense: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    weights: epath.Path | None = None
    normalize: bool = False


def encoder(folder: epath.Path) -> epath.Path | None:
    """The subfolder with the encoder according to modules.json; None if it is the folder itself."""
    modules = _modules(folder)
    first = modules[0][1] if modules else ""
    return folder / first if first else None


def root(folder: epath.Path) -> epath.Path:
    """The folder of the whole model: the encoder's folder, or its parent (above `0_Transformer` and the like)."""
    if (folder / MODULES).exists() or not folder.name.startswith("0_"):
        return folder
    return folder.parent if any((folder.parent / name).exists() for name in (MODULES, POOLING)) else folder


def files(folder: epath.Path) -> list[epath.Path]:
    """Every file that `tail` and `encoder` may read in addition to those in the folder itself."""
    top = root(folder)
    subfolders = sorted(entry for entry in top.iterdir() if re.match(r"\d+_", entry.name))
    paths = [file for entry in subfolders if entry.is_dir() for file in sorted(entry.iterdir())]
    return [path for path in (*paths, top / MODULES) if path.exists() and not path.is_dir()]


def tail(folder: epath.Path, *, headed: bool) -> Tail:
    """Reads the layers behind the encoder; empty if the folder is not a sentence-transformers model.

    Args:
      folder: the folder of the encoder's weights.
      headed: whether it is a jaxfer export, whose last dense layer is the head.

    Raises:
      InputError: damaged files, or an unsupported module or pooling.
    """
    top = root(folder)
    modules = _modules(top)
    head = epath.Path(DENSE).parent.name
    rest = [(kind, top / path) for kind, path in modules[1:] if not (headed and path == head)]
    kinds = [kind for kind, _ in rest if kind != "Dropout"]
    if "Pooling" in kinds and " ".join(kinds) not in CHAINS:  # without a Pooling it is not a sentence model
        raise InputError(
            f"{top / MODULES}: {', '.join(kind for kind, _ in modules)}; {READ}: give a copy of the folder without "
            f"{MODULES} to load only its encoder and pooling"
        )
    places = dict(rest) if "Pooling" in kinds else {}
    pooling = places["Pooling"] / "config.json" if "Pooling" in places else top / POOLING
    listed = "Pooling" in places or pooling.exists()
    layers = Tail(pool=_pool(pooling) if listed else None, normalize="Normalize" in places)
    return dataclasses.replace(layers, **_dense(places["Dense"])) if "Dense" in places else layers


def dense_weights(path: epath.Path) -> tuple[dict[str, Any], dict[str, str]]:
    """({key: tensor} of the dense layer under `PREFIX`, {that key: its key in the file}).

    Raises:
      InputError: a damaged file, or unexpected tensors.
    """
    tensors = reading.read(path)
    if not {"linear.weight"} <= set(tensors) <= set(DENSE_KEYS):
        raise InputError(f"{path}: expected {', '.join(DENSE_KEYS)}, found {', '.join(tensors)}; download it again")
    names = {PREFIX + key: f"{path.parent.name}.{key}" for key in tensors}
    return {PREFIX + key: tensor for key, tensor in tensors.items()}, names


def _modules(folder: epath.Path) -> list[tuple[str, str]]:
    """(kind, path) of each module in order; [] without a modules.json."""
    file = folder / MODULES
    if not file.exists():
        return []
    try:
        listed = sorted(json.loads(file.read_text()), key=lambda entry: entry.get("idx", 0))
        modules = [(entry["type"].rpartition(".")[2], entry["path"].rstrip("/")) for entry in listed]
    except (ValueError, OSError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError(
            f"{file}: expected a list of modules, each with a path and a type; download it again"
        ) from None
    for _, path in modules:
        if epath.Path(path).name != path or path == "..":  # a list must not reach out of its folder
            raise InputError(f"{file}: expected modules in its own folder, found {path!r}")
    return modules


def _pool(file: epath.Path) -> str:
    stated = reading.read_json(file)
    modes = stated.get("pooling_mode")
    if modes is None:
        modes = [mode for flag, mode in FLAGS.items() if stated.get(flag)] or ["mean"]
    modes = [modes] if isinstance(modes, str) else modes
    if not isinstance(modes, list | tuple) or not modes or not all(mode in FLAGS.values() for mode in modes):
        raise InputError(
            f"{file}: expected a pooling_mode of {', '.join(FLAGS.values())} or a list of them, found {modes!r}"
        )
    return "+".join(modes)


def _dense(folder: epath.Path) -> dict[str, Any]:
    """The fields of a `Tail` that a Dense module's folder states."""
    stated, file = reading.read_json(folder / "config.json"), folder / "config.json"
    activation = str(stated.get("activation_function") or "Tanh").rpartition(".")[2]
    if activation not in ACTIVATIONS or stated.get("use_residual"):
        raise InputError(
            f"{file}: expected an activation_function of {', '.join(ACTIVATIONS)} and no use_residual, found "
            f"{activation!r} and use_residual={stated.get('use_residual', False)!r}, which is not supported"
        )
    weights = next((folder / name for name in WEIGHTS if (folder / name).exists()), None)
    if weights is None:
        raise InputError(f"{folder}: a Dense without weights; expected {' or '.join(WEIGHTS)}")
    width, bias = stated.get("out_features"), stated.get("bias", True)
    if not isinstance(width, int) or isinstance(width, bool) or width < 1 or not isinstance(bias, bool):
        raise InputError(f"{file}: expected out_features > 0 and bias true or false, found {width!r} and {bias!r}")
    dense = {"projection": width, "projection_activation": ACTIVATIONS[activation], "projection_bias": bias}
    return {"dense": dense, "weights": weights}
