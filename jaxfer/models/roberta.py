"""RoBERTa: BERT trained longer, without pairs of sentences (Liu et al., 2019, arXiv:1907.11692); XLM-R and CamemBERT.

| network       | vocab   | width | layers | heads | mlp_width |                          |
|---------------|---------|-------|--------|-------|-----------|--------------------------|
| distilroberta | 50,265  | 768   | 6      | 12    | 3072      |                          |
| roberta-base  | 50,265  | 768   | 12     | 12    | 3072      |                          |
| roberta-large | 50,265  | 1024  | 24     | 16    | 4096      |                          |
| xlm-r-base    | 250,002 | 768   | 12     | 12    | 3072      | arXiv:1911.02116         |
| xlm-r-large   | 250,002 | 1024  | 24     | 16    | 4096      | arXiv:1911.02116         |
| camembert     | 32,005  | 768   | 12     | 12    | 3072      | arXiv:1911.03894         |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxfer.models import text
from jaxfer.models.heads import POOLED
from jaxfer.models.options import choice, positive, size
from jaxfer.models.port import Port

HEADS = text.HEADS
KINDS = ("roberta", "xlm-roberta", "camembert")


@dataclass(frozen=True, kw_only=True)
class Options(text.EncoderOptions):
    """The published size is the default: roberta-base.

    Attributes:
      types: rows of the token type embedding.
      kind: under which name the checkpoint is stored, `model_type` of its config.json; all are one network.
    """

    vocab: int = size(50265)
    types: int = size(1)
    epsilon: float = positive(1e-5)
    kind: str = choice("roberta", KINDS, inputs=True)

    form: ClassVar[text.Form] = text.Form(offset=2, drop_first=True, vocab_activation="gelu")


def port(options: Options, *, outputs: int, head: str = POOLED) -> Port:
    """A RoBERTa; see `encoder_port`."""
    return text.encoder_port(options, outputs=outputs, head=head)


TINY = {"": dict(vocab=23, width=12, layers=2, heads=3, mlp_width=20, positions=9, max_length=7)}
