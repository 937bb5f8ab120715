"""MPNet: masked and permuted pre-training (Song et al., 2020, arXiv:2004.09297); attention knows distances.

The published size is mpnet-base, which is that of BERT-base.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxfer.models import text
from jaxfer.models.heads import POOLED
from jaxfer.models.options import positive, size
from jaxfer.models.port import Port
from jaxfer.models.transformer import Relative

HEADS = text.HEADS


@dataclass(frozen=True, kw_only=True)
class Options(text.EncoderOptions):
    """The published size is the default."""

    vocab: int = size(30527)
    epsilon: float = positive(1e-5)

    form: ClassVar[text.Form] = text.Form(offset=2, drop_first=True, vocab_activation="gelu", relative=Relative())


def port(options: Options, *, outputs: int, head: str = POOLED) -> Port:
    """An MPNet; see `encoder_port`."""
    return text.encoder_port(options, outputs=outputs, head=head)


TINY = {"": dict(vocab=23, width=12, layers=2, heads=3, mlp_width=20, positions=9, max_length=7)}
