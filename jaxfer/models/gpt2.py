"""GPT-2: the pre-norm causal decoder with learned positions (Radford et al., 2019, no arXiv id).

| network      | vocab  | width | layers | heads |
|--------------|--------|-------|--------|-------|
| DistilGPT-2  | 50,257 | 768   | 6      | 12    |
| GPT-2        | 50,257 | 768   | 12     | 12    |
| GPT-2 medium | 50,257 | 1024  | 24     | 16    |
| GPT-2 XL     | 50,257 | 1600  | 48     | 25    |
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxfer.errors import InputError
from jaxfer.models import causal
from jaxfer.models.heads import POOLED
from jaxfer.models.options import choice, positive, size
from jaxfer.models.port import Port
from jaxfer.models.transformer import ACTIVATIONS, Spec

HEADS = causal.HEADS


@dataclass(frozen=True, kw_only=True)
class Options(causal.DecoderOptions):
    """The smallest published size is the default; the module's table has the others."""

    vocab: int = size(50257)
    positions: int = size(1024)
    activation: str = choice("gelu_new", tuple(ACTIVATIONS))
    epsilon: float = positive(1e-5)

    def check(self) -> None:
        super().check()
        if self.width % self.heads:
            raise InputError(f"heads must divide the width, found width={self.width} and heads={self.heads}")

    @property
    def places(self) -> bool:
        return True

    def spec(self, layer: int) -> Spec:
        return Spec(
            heads=self.heads,
            mlp_width=self.mlp_width,
            epsilon=self.epsilon,
            activation=self.activation,
            causal=True,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
        )


def port(options: Options, *, outputs: int, head: str = POOLED) -> Port:
    """A GPT-2; see `decoder_port`."""
    return causal.decoder_port(options, outputs=outputs, head=head)


TINY = {"": dict(vocab=23, width=12, layers=2, heads=3, mlp_width=20, positions=9, max_length=7)}
