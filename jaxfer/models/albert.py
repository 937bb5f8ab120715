"""ALBERT: BERT whose blocks are all one (Lan et al., 2019, arXiv:1909.11942).

| network        | width | layers | heads | mlp_width |
|----------------|-------|--------|-------|-----------|
| albert-base    | 768   | 12     | 12    | 3072      |
| albert-large   | 1024  | 24     | 16    | 4096      |
| albert-xlarge  | 2048  | 24     | 16    | 8192      |
| albert-xxlarge | 4096  | 12     | 64    | 16384     |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxfer.models import text
from jaxfer.models.heads import POOLED
from jaxfer.models.options import choice, size
from jaxfer.models.port import Port
from jaxfer.models.transformer import ACTIVATIONS

HEADS = text.HEADS


@dataclass(frozen=True, kw_only=True)
class Options(text.EncoderOptions):
    """The default is albert-base.

    Attributes:
      embedding_width: channels of the embeddings, which a layer maps to the width.
      types: rows of the token type embedding.
    """

    vocab: int = size(30000)
    embedding_width: int = size(128)
    types: int = size(2)
    activation: str = choice("gelu_new", tuple(ACTIVATIONS))

    form: ClassVar[text.Form] = text.Form(once=True)

    @property
    def embedding(self) -> int:
        return self.embedding_width

    @property
    def projects(self) -> bool:
        return True


def port(options: Options, *, outputs: int, head: str = POOLED) -> Port:
    """An ALBERT; see `encoder_port`. Its one block, which runs as often as there are layers, is one unit."""
    return text.encoder_port(options, outputs=outputs, head=head)


TINY = {"": dict(vocab=23, embedding_width=8, width=12, layers=2, heads=3, mlp_width=20, positions=9, max_length=7)}
