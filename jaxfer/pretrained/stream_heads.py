"""Heads of streams at the start of a run: one that the source trained on the same data, else new ones."""

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

    A stream with the data and classes of the source, or of one of its streams, gets that head: what it could do is
    measured, and kept or forgotten, from there.

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
        shapes = {path.removeprefix(below): leaf.shape for path, leaf in mine.items()}
        wanted = (stream.fingerprint, stream.classes), own.part.own
        same = (head for head in start.trained_heads if (head.trained_on, head.own) == wanted)
        kept = next((h for h in same if {path: leaf.shape for path, leaf in h.leaves.items()} == shapes), None)
        for path in mine:
            name = path.removeprefix(below)
            leaf, origin = (mine[path], None) if kept is None else (kept.leaves[name], f"params/{kept.stored}/{name}")
            leaves[path.removeprefix("params/")] = leaf
            what = "initialised" if kept is None else "loaded"
            ledger[path] = {"what": what, "from": origin, "shape": list(leaf.shape)}
    return dataclasses.replace(start, params=unflatten(leaves), ledger=ledger)
