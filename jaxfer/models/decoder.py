"""Decoders of the Llama kind: pre-norm, RMSNorm, rotary positions, gated MLPs, keys shared by groups of queries.

Llama (Touvron et al., 2023, arXiv:2302.13971), SmolLM, Mistral (Jiang et al., 2023, arXiv:2310.06825), Qwen2 (Yang et
al., 2024, arXiv:2407.10671), Qwen3 (arXiv:2505.09388), Gemma (arXiv:2403.08295) and Gemma 3 (arXiv:2503.19786).

| network      | vocab   | width | layers | heads | key_heads | head_width | mlp_width | besides                     |
|--------------|---------|-------|--------|-------|-----------|------------|-----------|-----------------------------|
| SmolLM2-135M | 49,152  | 576   | 30     | 9     | 3         | 64         | 1536      |                             |
| Llama-3.2-1B | 128,256 | 2048  | 16     | 32    | 8         | 64         | 8192      | rope_llama3                 |
| Qwen2.5-0.5B | 151,936 | 896   | 24     | 14    | 2         | 64         | 4864      | qkv_bias                    |
| Qwen3-0.6B   | 151,936 | 1024  | 28     | 16    | 8         | 128        | 3072      | qk_norm                     |
| Gemma-2B     | 256,000 | 2048  | 18     | 8     | 1         | 256        | 16384     | rms_1p, embedding_scale     |
| Gemma-3-270M | 262,144 | 640   | 18     | 4     | 1         | 256        | 2048      | these, sandwich and windows |
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from jaxfer.errors import InputError
from jaxfer.models import causal
from jaxfer.models.heads import POOLED
from jaxfer.models.options import choice, option, positive, size
from jaxfer.models.port import Port
from jaxfer.models.transformer import Rotary, Spec

HEADS = causal.HEADS


def _least(least: float) -> Any:
    def check(name: str, value: Any) -> None:
        if not value >= least:
            raise InputError(f"{name} must be at least {least:g}, found {value!r}")

    return check


@dataclass(frozen=True, kw_only=True)
class Options(causal.DecoderOptions):
    """The defaults are SmolLM2-135M's; the module's table has other published sizes.

    Attributes:
      key_heads: heads of key and value, each shared by as many queries; must divide the heads.
      head_width: channels of a head; 0: the width divided by the heads.
      norm: `rms`, or `rms_1p`, which scales by 1 + its leaf.
      order: `pre`, or `sandwich`: what a branch gives is normed too.
      qk_norm: whether queries and keys are normed by head.
      qkv_bias: whether query, key and value have biases.
      bias: whether the other dense layers of a block have.
      embedding_scale: whether embeddings are scaled by the square root of the width.
      score_width: attention's scores are divided by its square root; 0: the width of a head.
      theta: base of the rotary wavelengths.
      rope_factor: by which places are divided.
      rope_llama3: (factor, low, high, tokens) of Llama 3.1's scaling of them; (): none (`Rotary.llama3`).
      window: tokens that a token of a windowed layer sees, itself included; 0: all.
      windowed: numbers of these layers, from 0.
      local_theta: base of the rotary wavelengths in these layers, without scaling; 0: as in the others.
    """

    vocab: int = size(49152)
    positions: int = size(8192)
    width: int = size(576)
    layers: int = size(30)
    heads: int = size(9)
    mlp_width: int = size(1536)
    key_heads: int = size(3)
    head_width: int = option(0, _least(0))
    norm: str = choice("rms", ("rms", "rms_1p"))
    order: str = choice("pre", ("pre", "sandwich"))
    qk_norm: bool = option(False)
    qkv_bias: bool = option(False)
    bias: bool = option(False)
    embedding_scale: bool = option(False)
    score_width: int = option(0, _least(0))
    theta: float = positive(100000.0)
    rope_factor: float = positive(1.0)
    rope_llama3: tuple[float, ...] = option(())
    window: int = option(0, _least(0))
    windowed: tuple[int, ...] = option(())
    local_theta: float = option(0.0, _least(0.0))

    def check(self) -> None:
        super().check()
        if not self.head_width and self.width % self.heads:
            raise InputError(f"heads must divide the width, found width={self.width} and heads={self.heads}")
        if self.channels % 2:
            raise InputError(f"a head must have an even number of channels to be turned, found {self.channels}")
        if self.heads % self.key_heads:
            raise InputError(f"key_heads must divide the heads, found heads={self.heads}, key_heads={self.key_heads}")
        if self.rope_llama3 and (len(self.rope_llama3) != 4 or self.rope_llama3[1] >= self.rope_llama3[2]):
            raise InputError(
                f"rope_llama3 must be (factor, low, high, tokens) with low < high, found {self.rope_llama3}"
            )
        if self.rope_llama3 and self.rope_factor != 1.0:
            raise InputError("rope_factor and rope_llama3 scale the same positions; set one of them")
        if self.windowed and (self.window < 2 or not set(self.windowed) <= set(range(self.layers))):
            raise InputError(
                f"windowed must be layers below {self.layers} with a window of at least 2, found {self.windowed} and "
                f"window={self.window}"
            )
        if not self.windowed and (self.window or self.local_theta):
            raise InputError("window and local_theta are of windowed layers; name these as windowed=(0, 1)")

    @property
    def channels(self) -> int:
        """Of a head."""
        return self.head_width or self.width // self.heads

    @property
    def gain(self) -> float:
        return math.sqrt(self.width) if self.embedding_scale else 1.0

    def spec(self, layer: int) -> Spec:
        rotary = Rotary(theta=self.theta, factor=self.rope_factor, llama3=self.rope_llama3)
        if (local := layer in self.windowed) and self.local_theta:
            rotary = Rotary(theta=self.local_theta)
        return Spec(
            heads=self.heads,
            key_heads=self.key_heads,
            head_width=self.channels,
            mlp_width=self.mlp_width,
            order=self.order,
            norm=self.norm,
            epsilon=self.epsilon,
            activation=self.activation,
            gated=True,
            bias=self.bias,
            qkv_bias=self.qkv_bias,
            qk_norm=self.qk_norm,
            scale=self.score_width**-0.5 if self.score_width else 0.0,
            causal=True,
            window=self.window - 1 if local else 0,
            rotary=rotary,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
        )


def port(options: Options, *, outputs: int, head: str = POOLED) -> Port:
    """A decoder of the Llama kind; see `decoder_port`."""
    return causal.decoder_port(options, outputs=outputs, head=head)


_SMALL = dict(vocab=23, width=16, layers=2, heads=4, key_heads=2, mlp_width=20, positions=9, max_length=7)
TINY = {
    "llama": _SMALL,
    "qwen": {**_SMALL, "head_width": 4, "qkv_bias": True, "qk_norm": True, "pool": "mean", "tied": False},
    "gemma": {
        **dict(_SMALL, norm="rms_1p", order="sandwich", activation="gelu_pytorch_tanh", embedding_scale=True),
        **dict(score_width=5, window=3, windowed=(0,), local_theta=100.0, rope_factor=2.0),
    },
}
