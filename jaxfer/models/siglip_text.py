"""SigLIP's text encoder: bidirectional, pooled at its last place (Zhai et al., 2023, arXiv:2303.15343).

Texts are padded to one length, 64 tokens, and padding is read as any other token. SigLIP 2 (Tschannen et al., 2025,
arXiv:2502.14786) has the same encoder with Gemma's vocabulary of 256,000 tokens.

| network | width | layers | heads | mlp_width | projection |
|---------|-------|--------|-------|-----------|------------|
| B       | 768   | 12     | 12    | 3072      | 768        |
| L       | 1024  | 24     | 16    | 4096      | 1024       |
| So400m  | 1152  | 27     | 16    | 4304      | 1152       |
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import ClassVar

from jaxfer.data.encodings.text import TextEncoding
from jaxfer.errors import InputError
from jaxfer.models.heads import POOLED
from jaxfer.models.options import choice, option, positive, size
from jaxfer.models.port import Port
from jaxfer.models.towers import TEXT_HEADS, TextTowerOptions, text_tower_port
from jaxfer.models.transformer import ACTIVATIONS

HEADS = TEXT_HEADS


@dataclass(frozen=True, kw_only=True)
class Options(TextTowerOptions):
    """The module's table has the published sizes."""

    vocab: int = size(32000)
    positions: int = size(64)
    max_length: int = size(64, training=True, inputs=True)
    width: int = size(768)
    heads: int = size(12)
    mlp_width: int = size(3072)
    projection: int = option(768)
    activation: str = choice("gelu_pytorch_tanh", tuple(ACTIVATIONS))
    epsilon: float = positive(1e-6)

    causal: ClassVar[bool] = False
    projection_bias: ClassVar[bool] = True

    @functools.cached_property
    def encoding(self) -> TextEncoding:
        """Every batch has the longest length: the tower reads padding."""
        check_one_length(self.buckets, self.max_length)
        return TextEncoding(
            tokenizer=self.tokenizer,
            tokenizer_sha256=self.tokenizer_sha256,
            vocab=self.vocab,
            types=0,
            max_length=self.max_length,
            buckets=(self.max_length,),
        )

    def check(self) -> None:
        super().check()
        if not self.projection:
            raise InputError("projection must be a positive integer, found 0: SigLIP's text encoder always projects")


def check_one_length(buckets: tuple[int, ...], max_length: int) -> None:
    """`InputError` for buckets of a tower that reads padding."""
    if buckets not in ((), (max_length,)):
        raise InputError(
            f"buckets must be () or ({max_length},), found {buckets!r}: this model reads padding, so all texts have "
            "one length"
        )


def port(options: Options, *, outputs: int, head: str = POOLED) -> Port:
    """SigLIP's text encoder; see `text_tower_port`."""
    return text_tower_port(options, outputs=outputs, head=head)


TINY = {
    "": dict(vocab=23, width=12, layers=2, heads=3, mlp_width=20, projection=5, positions=7, max_length=7),
}
