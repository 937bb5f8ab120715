"""DistilBERT: BERT with half the layers, distilled, without segments (Sanh et al., 2019, arXiv:1910.01108)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxfer.models import text
from jaxfer.models.heads import POOLED
from jaxfer.models.options import size
from jaxfer.models.port import Port

HEADS = text.HEADS


@dataclass(frozen=True, kw_only=True)
class Options(text.EncoderOptions):
    """The published size is the default: distilbert-base."""

    layers: int = size(6)

    form: ClassVar[text.Form] = text.Form(pooler="relu")


def port(options: Options, *, outputs: int, head: str = POOLED) -> Port:
    """A DistilBERT; see `encoder_port`."""
    return text.encoder_port(options, outputs=outputs, head=head)


TINY = {"": dict(vocab=23, width=12, layers=2, heads=3, mlp_width=20, positions=9, max_length=7)}
