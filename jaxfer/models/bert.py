"""BERT: the post-norm transformer encoder of text (Devlin et al., 2018, arXiv:1810.04805).

| network           | vocab   | width | layers | heads | mlp_width |
|-------------------|---------|-------|--------|-------|-----------|
| MiniLM-L6         | 30,522  | 384   | 6      | 12    | 1536      |
| BERT-base uncased | 30,522  | 768   | 12     | 12    | 3072      |
| BERT-large        | 30,522  | 1024  | 24     | 16    | 4096      |
| mBERT cased       | 119,547 | 768   | 12     | 12    | 3072      |
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxfer.models import text
from jaxfer.models.heads import POOLED
from jaxfer.models.options import size
from jaxfer.models.port import Port

HEADS = text.HEADS


@dataclass(frozen=True, kw_only=True)
class Options(text.EncoderOptions):
    """The module's table has the published sizes.

    Attributes:
      types: rows of the token type embedding.
    """

    types: int = size(2)


def port(options: Options, *, outputs: int, head: str = POOLED) -> Port:
    """A BERT; see `encoder_port`."""
    return text.encoder_port(options, outputs=outputs, head=head)


_SMALL = dict(vocab=23, width=12, layers=2, mlp_width=20, positions=9, types=2, max_length=7)
TINY = {"pooler": {**_SMALL, "heads": 3}, "mean": {**_SMALL, "heads": 2, "pool": "mean"}}
