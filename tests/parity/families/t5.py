import torch
from torch import nn
from transformers import (
    MT5Config,
    MT5ForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
    T5ForTokenClassification,
)

from tests.parity.families import Case

ODD = dict(
    vocab_size=53,
    d_model=21,
    d_kv=6,
    d_ff=27,
    num_layers=2,
    num_decoder_layers=3,
    num_heads=3,
    relative_attention_num_buckets=8,
    relative_attention_max_distance=15,
    dropout_rate=0.0,
    num_labels=3,
)


def settled(untied):
    def settle(model):
        """Norms away from zero, and an output layer of its own."""
        draw = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, leaf in model.named_parameters():
                if leaf.ndim == 1 and "norm" in name:
                    leaf.copy_(0.75 + 0.5 * torch.rand(leaf.shape, generator=draw))
                if name == "decoder.final_layer_norm.weight":  # of both signs: a tied head would repeat what was read
                    leaf.mul_(torch.randn(leaf.shape, generator=draw).sign())
        if untied:
            weight = model.lm_head.weight
            model.lm_head.weight = nn.Parameter(torch.randn(weight.shape, generator=draw) * 0.3)

    return settle


def case(kind, config, *, untied=False, rate=0.1, golden=False):
    layers = {"encoder": config.num_layers, "decoder": config.num_decoder_layers}
    units = {f"{trunk}_block_{i}": f"{trunk}.block.{i}" for trunk, count in layers.items() for i in range(count)}
    stems = {f"{trunk}_stem": f"{trunk}.embed_tokens" for trunk in layers}
    return Case(
        layout=("t5", "hf"),
        make=lambda: kind(config),
        units={**units, **stems, "encoder_norm": "encoder.final_layer_norm"},
        length=19,
        target=17,
        last=r".*\.(o|wo)",
        prepared=settled(untied),
        options=dict(head="seq2seq"),
        read=lambda logits: logits.mean(1),
        rate=rate,
        golden=golden,
    )


CASES = {
    "odd": case(T5ForConditionalGeneration, T5Config(**ODD), golden=True),
    "gated": case(
        T5ForConditionalGeneration,
        T5Config(**ODD, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
        untied=True,
        rate=0.03,
    ),
    "mt5": case(MT5ForConditionalGeneration, MT5Config(**ODD, feed_forward_proj="gated-gelu"), untied=True, rate=0.03),
    "encoder": Case(
        layout=("t5", "hf"),
        make=lambda: T5ForTokenClassification(T5Config(**ODD, feed_forward_proj="gated-silu")),
        units={f"encoder_block_{i}": f"transformer.encoder.block.{i}" for i in range(2)}
        | {"encoder_norm": "transformer.encoder.final_layer_norm"},
        last=r".*\.(o|wo)",
        prepared=settled(False),
        options=dict(head="token"),
        read=lambda logits: logits[:, :2].mean(1),
    ),
    "small": case(T5ForConditionalGeneration, T5Config(), rate=0.0),
}
