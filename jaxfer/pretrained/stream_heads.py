"""Heads of streams at the start of a run: the source's own for the data it was trained on, else new ones."""

from __future__ import annotations

import dataclasses

import jax

from jaxfer.data.split import Dataset
from jaxfer.pretrained.carrying import fresh_leaves
from jaxfer.pretrained.ledger import Start
from jaxfer.rules import flatten, unflatten
from jaxfer.step import StepSpec


def added(start: Start, spec: StepSpec, data: Dataset, key: jax.Array) -> Start:
    """The start with a head for each stream that has a task.

    A stream of the source's own data and classes gets the source's head: what it could do is measured, and kept or
    forgotten, from there.

    Args:
      start: of the model without these heads.
      spec: of the first stage, its port with them.
      data: with the streams'.
      key: draws new ones.
    """
    leaves, ledger, port = flatten(start.params), dict(start.ledger), spec.port
    fresh = [f"params/{path}" for path in flatten(jax.eval_shape(port.init, key, port.example(2))[0])]
    fresh = [path for path in fresh if path.startswith(tuple(f"params/{p.part.path}/" for p in port.parts))]
    drawn = fresh_leaves(port, fresh, key, port.example(2))
    for own in port.parts:
        stream, below = data.streams[own.part.name], f"params/{own.part.path}/"
        mine = {path: leaf for path, leaf in drawn.items() if path.startswith(below)}
        kept = {f"{below}{name}": leaf for name, leaf in start.trained_head.items()}
        same = start.trained_on == (stream.fingerprint, stream.classes) and own.part.own == own.head
        fits = {path: leaf.shape for path, leaf in kept.items()} == {path: leaf.shape for path, leaf in mine.items()}
        loaded = same and fits
        for path, leaf in (kept if loaded else mine).items():
            leaves[path.removeprefix("params/")] = leaf
            ledger[path] = {"what": "loaded" if loaded else "initialised", "from": None, "shape": list(leaf.shape)}
            if loaded:
                ledger[path]["from"] = f"params/{port.head}/{path.removeprefix(below)}"
    return dataclasses.replace(start, params=unflatten(leaves), ledger=ledger)
