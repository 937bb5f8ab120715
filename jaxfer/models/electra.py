"""ELECTRA: BERT as a discriminator of replaced tokens (Clark et al., 2020, arXiv:2003.10555).

| network       | embedding_width | width | layers | heads | mlp_width |
|---------------|-----------------|-------|--------|-------|-----------|
| electra-small | 128             | 256   | 12     | 4     | 1024      |
| electra-base  | 768             | 768   | 12     | 12    | 3072      |
| electra-large | 1024            | 1024  | 24     | 16    | 4096      |
"""

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
    """The default is electra-small.

    Attributes:
      embedding_width: channels of the embeddings; a layer maps them to the width where that differs.
      types: rows of the token type embedding.
    """

    embedding_width: int = size(128)
    width: int = size(256)
    heads: int = size(4)
    mlp_width: int = size(1024)
    types: int = size(2)

    form: ClassVar[text.Form] = text.Form(pooler="gelu", drop_first=True, vocab_activation="gelu")

    @property
    def embedding(self) -> int:
        return self.embedding_width


def port(options: Options, *, outputs: int, head: str = POOLED) -> Port:
    """An ELECTRA; see `encoder_port`."""
    return text.encoder_port(options, outputs=outputs, head=head)


_SMALL = dict(vocab=23, width=12, layers=2, heads=3, mlp_width=20, positions=9, max_length=7)
TINY = {"": {**_SMALL, "embedding_width": 8}, "equal": {**_SMALL, "embedding_width": 12}}
