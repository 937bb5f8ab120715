"""What Swin's layouts share: their key table, by the names that each has."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

from jaxfer.models.port import Port
from jaxfer.pretrained.layout import CONV, DENSE, IDENTITY, Key, Transform, heads_in, heads_out

SCALE = Transform("logit_scale", lambda x: x.reshape(-1), lambda x: x.reshape(-1, 1, 1))
STATED = "relative_position_index", "relative_coords_table"  # what a window's size determines


class Names(NamedTuple):
    """A layout's names, without `.weight` and `.bias`; those of a block follow its own.

    Attributes:
      stem: of the convolution and the norm.
      merge: stage -> of the patch merging before it.
      block: (stage, index) -> of a block.
      norms: of both norms.
      qkv: of query, key and value; of one layer where they are three parts of it.
      biases: keys of the biases of query and value, where they are none of their layers'.
      out, fc1, fc2: of attention's output layer and of the MLP.
      inside: what comes before a bias's table, a logit scale or a position MLP.
      position: of the position MLP.
      head: of the norm and the output layer.
    """

    stem: tuple[str, str]
    merge: Callable[[int], str]
    block: Callable[[int, int], str]
    norms: tuple[str, str]
    qkv: tuple[str, ...]
    biases: tuple[str, ...]
    out: str
    fc1: str
    fc2: str
    inside: str
    position: str
    head: tuple[str, str]


def keys_of(names: Callable[[Port], Names]) -> Callable[[Port], dict[str, Key]]:
    """The key table of a layout."""

    def keys(port: Port) -> dict[str, Key]:
        of, options, table = names(port), port.options, {}

        def layer(path: str, name: str, leaf: str = "kernel", turn: Transform = DENSE) -> None:
            table[f"params/{path}/{leaf}"] = Key(f"{name}.weight", turn)
            table[f"params/{path}/bias"] = Key(f"{name}.bias")

        def norm(path: str, name: str) -> None:
            layer(path, name, "scale", IDENTITY)

        layer("stem/patch", of.stem[0], turn=CONV)
        norm("stem/norm", of.stem[1])
        for unit, stage, i in blocks(port):
            block = of.block(stage, i)
            if stage and not i:
                norm(f"{unit}/merge/norm", f"{of.merge(stage)}.norm")
                table[f"params/{unit}/merge/reduce/kernel"] = Key(f"{of.merge(stage)}.reduction.weight", DENSE)
            for n in (1, 2):
                norm(f"{unit}/norm_{n}", f"{block}.{of.norms[n - 1]}")
            split = heads_out(options.heads[stage])
            for n, name in enumerate(("query", "key", "value")):
                part = dict(part=(n, 3), axis=0) if len(of.qkv) == 1 else {}
                key = f"{block}.{of.qkv[n % len(of.qkv)]}"
                table[f"params/{unit}/attn/{name}/kernel"] = Key(f"{key}.weight", split, **part)
                if options.qkv_bias and not (options.v2 and name == "key"):
                    bias = f"{block}.{of.biases[n // 2]}" if of.biases else f"{key}.bias"
                    table[f"params/{unit}/attn/{name}/bias"] = Key(bias, split, **part)
            layer(f"{unit}/attn/out", f"{block}.{of.out}", turn=heads_in(options.heads[stage]))
            inside = f"{block}.{of.inside}"
            if options.v2:
                table[f"params/{unit}/attn/scale"] = Key(f"{inside}.logit_scale", SCALE)
                layer(f"{unit}/attn/position/fc1", f"{inside}.{of.position}.0")
                table[f"params/{unit}/attn/position/fc2/kernel"] = Key(f"{inside}.{of.position}.2.weight", DENSE)
            else:
                table[f"params/{unit}/attn/relative"] = Key(f"{inside}.relative_position_bias_table")
            layer(f"{unit}/mlp/fc1", f"{block}.{of.fc1}")
            layer(f"{unit}/mlp/fc2", f"{block}.{of.fc2}")
        norm("head/norm", of.head[0])
        layer("head/out", of.head[1])
        return table

    return keys


def blocks(port: Port) -> Iterator[tuple[str, int, int]]:
    """Yields (unit, stage, index within the stage) of every block."""
    order = ((stage, i) for stage, blocks in enumerate(port.options.stage_sizes) for i in range(blocks))
    return ((f"block_{n}", *place) for n, place in enumerate(order))


def window_of(distances: int) -> int:
    """The side of a window, of the rows of its table of relative positions."""
    return (math.isqrt(distances) + 1) // 2
