"""A `peft` adapter beside the leaves of its base: for `jaxfer.adapters`, which holds a backbone once."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxfer.config.fields import AUTO
from jaxfer.errors import InputError
from jaxfer.exports.predict import Model
from jaxfer.method import FROZEN, Method, without
from jaxfer.models.port import Port
from jaxfer.network import Network
from jaxfer.pretrained import adapter, carrying, foreign
from jaxfer.registry import METHODS
from jaxfer.rules import flatten, unflatten
from jaxfer.stored import placed

# Kinds that are no parameters of our methods: what an adapter adds to kernels, or the leaves that it makes.
ADDED, REPLACED = "added", "replaced"


def beside(model: Model, checkpoint: foreign.Checkpoint) -> tuple[str, Model]:
    """(kind, the model) of a `peft` adapter, which loading merged, beside the leaves of its base.

    LoRA of dense layers keeps its factors. Of what else adds to kernels the sums are kept, one kernel each, and of
    other adapters the leaves that they make.

    Raises:
      InputError: no adapter, a base without a leaf that the model has, or running statistics of the adapter's own.
    """
    source, port = checkpoint.files, model.port
    if source.adapter is None:
        raise InputError(f"{source.init}: expected a run or a peft adapter, found a whole model")
    trained = flatten({"params": model.params, **model.model_state})
    head = [path for path in trained if path.startswith(f"params/{port.head}/")]
    base = foreign.opened(source.adapter.base.init, AUTO, {})
    found = carrying.carry(base, port, trained, reset=head, differs=(), lazy=True)
    leaves = placed(
        {**flatten({"params": found.params, **found.model_state}), **{path: trained[path] for path in head}}
    )
    if lacking := sorted(trained.keys() - leaves.keys()):
        raise InputError(f"{source.init}: its base has no {lacking[0]}, so there is no backbone to share")
    kind, own = "lora", _factors(checkpoint, port, trained)
    if own is None:
        moved = [path for path in leaves if not np.array_equal(leaves[path], trained[path])]
        if statistics := [path for path in moved if not path.startswith("params/")]:
            raise InputError(
                f"{source.init}: it has running statistics of its own ({statistics[0]}), and adapters share those of "
                "their backbone; predict with it alone"
            )
        adds = adapter.adds(source) and all(path.endswith("/kernel") for path in moved)
        kind = ADDED if adds else REPLACED
        values = {path: trained[path] - leaves[path] if adds else trained[path] for path in moved}
        own = {path.removeprefix("params/"): value for path, value in values.items()}
    # Scales are in the factors, whose ranks may differ.
    method = METHODS.make("lora", port, rank=1, alpha=1.0) if kind == "lora" else _held(kind)
    params = {**unflatten(leaves)["params"], kind: unflatten(own)}
    network = Network(port=port, params=params, model_state=model.model_state, method=method, extra={})
    return kind, dataclasses.replace(model, network=network)


def _factors(checkpoint: foreign.Checkpoint, port: Port, leaves: Mapping[str, Any]) -> dict[str, Any] | None:
    """{path: factor} of `lora` for a `peft` LoRA of dense layers; None where there is more, or a layer of several."""
    if (factors := adapter.low_rank(checkpoint.files)) is None:
        return None
    low: dict[str, Any] = {}
    for path, key in checkpoint.layout.keys(port).items():
        module = adapter.name_of(checkpoint.layout, key.name.removesuffix(".weight"))
        if path.endswith("/kernel") and key.part is None and module in factors:
            a, b = factors.pop(module)
            site, count, shape = path.removeprefix("params/").removesuffix("/kernel"), len(a), leaves[path].shape
            inputs = port.summed(f"{site}/kernel")
            low[f"{site}/a"] = a.T.reshape(*shape[:inputs], count)
            low[f"{site}/b"] = b.T.reshape(count, *shape[inputs:])
    return None if factors else low


def _held(kind: str) -> Method:
    """A method whose parameters are added to the backbone's leaves, or put in their place."""

    def view(params, extra):
        leaves = flatten(without(kind)(params, None))
        own = flatten(params[kind])
        return unflatten(leaves | {path: leaves[path] + x if kind == ADDED else x for path, x in own.items()})

    return Method(rules=((".*", FROZEN),), view=view, merge=view)
