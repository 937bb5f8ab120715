"""Load a checkpoint's weights into a port: copy, resize or re-initialise each leaf."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxfer.errors import InputError
from jaxfer.models import neck as necks
from jaxfer.models.heads import FORECAST, WORDS
from jaxfer.models.port import Port
from jaxfer.ports import drawn, port_shapes
from jaxfer.pretrained import located, peft_prompts, surgery
from jaxfer.pretrained.foreign import Checkpoint
from jaxfer.pretrained.layout import Conversion, convert
from jaxfer.rules import flatten, unflatten


def carry(
    checkpoint: Checkpoint,
    port: Port,
    shapes: Mapping[str, Any],
    *,
    reset: Sequence[str],
    differs: Sequence[str],
    unused: Sequence[str] = (),
    prompted: bool = False,
    lazy: bool = False,
) -> Conversion:
    """Loads the checkpoint's weights into the port's leaves, resizing those that `differs` announces.

    Args:
      checkpoint: the source of the weights.
      port: the model.
      shapes: {leaf: shape} of the port.
      reset: leaves to re-initialise even if the checkpoint has them.
      differs: what `config.differs` announces.
      unused: checkpoint keys that need no leaf.
      prompted: whether the caller gives the model the prompts of a checkpoint that is a `peft` adapter of such.
      lazy: as of `convert`.

    Raises:
      InputError: whatever does not fit and was not announced, and values that no network computes with.
    """
    if not prompted and (name := peft_prompts.method(checkpoint.files)) is not None:
        given = ", ".join(f"{option}={value!r}" for option, value in peft_prompts.options(checkpoint.files).items())
        raise InputError(
            f"config.init={checkpoint.files.init}: a peft adapter of {checkpoint.files.adapter.config['peft_type']} is "
            f"no part of the model's weights; predict with it, or set config.method={name} and config.options={given}"
        )
    tensors = located.weights(checkpoint.files)
    stem = port.units[0]
    changes: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {}
    if "image" in differs:
        channels = port.encoding.size[2]
        for conv in ("conv", "patch"):
            changes[f"params/{stem}/{conv}/kernel"] = ("inflated", lambda x: surgery.inflate_input(x, channels))
        if f"params/{stem}/pos" in shapes:
            changes[f"params/{stem}/pos"] = ("resized", _resizing(checkpoint, port, shapes[f"params/{stem}/pos"].shape))
    of_layout = checkpoint.layout.resized(checkpoint.options, port)
    changes |= {leaf: ("resized", change) for leaf, change in of_layout.items()}
    neck = necks.leaves(port, shapes)  # no layout has a place for it
    conversion = convert(
        tensors,
        checkpoint.layout,
        port,
        {leaf: shape for leaf, shape in shapes.items() if leaf not in neck},
        reset=[re.escape(leaf) for leaf in reset],
        surgery={leaf: change for leaf, (_, change) in changes.items()},
        unused=[re.escape(key) for key in unused],
        source=f"config.init={checkpoint.files.init}",
        lazy=lazy,
    )
    _check_values(checkpoint.files.init, conversion)
    for leaf, entry in conversion.ledger.items():
        key = entry["from"]
        if entry["what"] == "resized":
            entry["what"] = changes[leaf][0]
        elif key in tensors.merged and leaf not in conversion.fresh:
            entry["what"] = "merged"
        entry |= {"adapter": tensors.merged[key]} if key in tensors.merged else {}
        entry["from"] = tensors.moved.get(key, key)
    unused = tuple(tensors.moved.get(key, key) for key in conversion.unused)
    drawn = {leaf: {"what": "re-initialised", "from": None, "shape": list(shapes[leaf].shape)} for leaf in neck}
    return dataclasses.replace(
        conversion,
        fresh=(*conversion.fresh, *neck),
        ledger=conversion.ledger | drawn,
        unused=unused,
        unwrapped=tensors.unwrapped,
        dropped=tensors.dropped,
    )


def _check_values(init: str, conversion: Conversion) -> None:
    """Raises `InputError` for NaN, infinity or a negative variance, which would otherwise surface as a later error."""
    for leaf, stored in flatten({"params": conversion.params, **conversion.model_state}).items():
        value = np.asarray(stored)  # one at a time
        bad, fault = ~np.isfinite(value), "NaN or infinite"
        if not bad.any() and leaf.startswith("batch_stats/") and leaf.endswith("/var"):
            bad, fault = value < 0, "negative, which a variance can't be"
        if bad.any():
            raise InputError(
                f"config.init={init}: {np.count_nonzero(bad)} of {bad.size} values of "
                f"{conversion.ledger[leaf]['from']} ({leaf}) are {fault}; download it again, or give a checkpoint from "
                "before its training diverged"
            )


def fresh_leaves(port: Port, leaves: Sequence[str], key: jax.Array, shapes: Any) -> dict[str, jax.Array]:
    """Freshly initialised values of these leaves only, as `port.init` draws them: {leaf: value}."""
    if not leaves:
        return {}
    zeros = jax.tree.map(lambda s: jax.numpy.zeros(s.shape, s.dtype), shapes)
    return _compiled_fresh(port, tuple(leaves))(key, zeros)


def under_another_head(
    params: Any, model_state: Any, head: str, port: Port, key: jax.Array
) -> tuple[Any, Any, tuple[str, ...]]:
    """(params, model_state, leaves made anew) of the same model with another head.

    Args:
      params: of the model with its former head.
      model_state: likewise.
      head: path of that head, of which nothing is kept.
      port: the model with the new head.
      key: draws what is made anew, as at the start of a run.
    """
    blank = port_shapes(port)
    shapes, heads = flatten({"params": blank[0], **blank[1]}), (f"params/{head}/", f"params/{port.head}/")
    leaves = flatten({"params": params, **model_state}).items()
    kept = {leaf: value for leaf, value in leaves if leaf in shapes and not leaf.startswith(heads)}
    fresh = tuple(leaf for leaf in shapes if leaf not in kept)
    tree = unflatten({**kept, **fresh_leaves(port, fresh, key, port.example(2))})
    return tree.pop("params"), tree, fresh


@functools.lru_cache(maxsize=64)
def _compiled_fresh(port: Port, leaves: tuple[str, ...]) -> Any:
    def draw(key, batch):
        params, model_state = port.init(key, batch)
        everything = flatten({"params": params, **model_state})
        return {leaf: everything[leaf] for leaf in leaves}

    return drawn(draw)


def keeps_head(head: str, checkpoint: Checkpoint, classes: Sequence[str], kind: str, outputs: int = 0) -> bool:
    """Whether to keep the checkpoint's head: the config asks for it, or the classes match by name and order.

    A head over words is of the checkpoint's own vocabulary, and fits any data. A forecaster's fits its horizon, the
    `outputs` of a forecast.

    Raises:
      InputError: the same classes in another order, which is no reason to lose the head and none to keep it; or
        `keep` for a head of another kind of task.
    """
    if kind in WORDS:
        untied = (checkpoint.files.config or {}).get("tie_word_embeddings") is False
        if head != "reset" and untied and checkpoint.options.get("tied", True):
            raise InputError(
                f"config.init={checkpoint.files.init}: its decoder is not tied to the word embedding, ours is; set "
                "config.head=reset"
            )
        return head != "reset"
    if kind == FORECAST and (checkpoint.other_head or "").endswith("ForPrediction"):
        same = (checkpoint.files.config or {}).get("prediction_length", outputs) == outputs
        return head == "keep" or head == "auto" and same
    if checkpoint.other_head is not None:
        if head == "keep":
            source = f"{checkpoint.files.init} is a {checkpoint.other_head}"
            raise InputError(
                f"config.head=keep: {source}, whose head does not label whole inputs; set config.head=reset"
            )
        return False
    if head != "auto":
        return head == "keep"
    labels = checkpoint.labels
    if labels and labels != tuple(classes) and set(labels) == set(classes):
        raise InputError(
            f"config.head=auto: the checkpoint has the data's classes in another order ({', '.join(labels)}); set "
            "config.data.classes to its order, or config.head=reset"
        )
    return bool(labels) and labels == tuple(classes)


def _resizing(checkpoint: Checkpoint, port: Port, shape: tuple[int, ...]) -> Callable[[np.ndarray], np.ndarray]:
    patch, image = checkpoint.options["patch"], checkpoint.options.get("image")
    new = tuple(side // port.options.patch for side in port.encoding.size[:2])
    old = None if image is None or "image" in checkpoint.soft else tuple(side // patch for side in image[:2])
    return lambda x: surgery.resize_positions(x, old, new, extra=shape[1] - new[0] * new[1])
