"""CLIP's text encoder: causal, pooled at the end-of-text token (Radford et al., 2021, arXiv:2103.00020).

| network of the image encoder | width | layers | heads | mlp_width | projection |
|------------------------------|-------|--------|-------|-----------|------------|
| ViT-B/32, ViT-B/16           | 512   | 12     | 8     | 2048      | 512        |
| ViT-L/14                     | 768   | 12     | 12    | 3072      | 768        |
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxfer.models.heads import POOLED
from jaxfer.models.options import option, size
from jaxfer.models.port import Port
from jaxfer.models.towers import TEXT_HEADS, TextTowerOptions, text_tower_port

HEADS = TEXT_HEADS


@dataclass(frozen=True, kw_only=True)
class Options(TextTowerOptions):
    """The module's table has the published sizes.

    Attributes:
      end: id of the token that ends texts, as transformers' config states it: 2 for the highest id of a text.
    """

    vocab: int = size(49408)
    positions: int = size(77)
    max_length: int = size(77, training=True, inputs=True)
    end: int = option(49407, inputs=True)


def port(options: Options, *, outputs: int, head: str = POOLED) -> Port:
    """CLIP's text encoder; see `text_tower_port`."""
    return text_tower_port(options, outputs=outputs, head=head)


_SMALL = dict(vocab=23, width=12, layers=2, heads=3, mlp_width=20, positions=9, max_length=7)
TINY = {"": {**_SMALL, "projection": 5}}
