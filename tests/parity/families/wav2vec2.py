import numpy as np
import torch
from torch import nn
from transformers import (
    HubertConfig,
    HubertForSequenceClassification,
    Wav2Vec2Config,
    Wav2Vec2ForSequenceClassification,
)

from jaxfer.data.encodings.waveform import WaveformEncoding
from tests.parity.families import Case

ODD = dict(
    hidden_size=18,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=22,
    conv_dim=(4, 5, 6),
    conv_kernel=(7, 3, 2),
    conv_stride=(3, 2, 2),
    num_conv_pos_embeddings=6,
    num_conv_pos_embedding_groups=3,
    classifier_proj_size=7,
    num_labels=3,
)
STABLE = {
    **ODD,
    "do_stable_layer_norm": True,
    "feat_extract_norm": "layer",
    "conv_bias": True,
    "num_conv_pos_embeddings": 5,
    "hidden_act": "gelu_new",
}
STILL = dict(
    hidden_dropout=0.0,
    activation_dropout=0.0,
    attention_dropout=0.0,
    feat_proj_dropout=0.0,
    layerdrop=0.0,
    apply_spec_augment=False,
)


def settled(model):
    """Norms of channels and taps of the positions' convolution, at the scale of the others."""
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.GroupNorm):
                module.weight.copy_(0.75 + 0.5 * torch.rand(module.weight.shape, generator=draw))
        for layer in model.base_model.feature_extractor.conv_layers[3:]:  # each GELU of a deep stack halves its input
            layer.conv.weight.mul_(2)
        (lengths,) = (x for name, x in model.named_parameters() if name.endswith("weight.original0"))
        lengths.copy_(2 * (0.75 + 0.5 * torch.rand(lengths.shape, generator=draw)))


def case(cls, config, *, samples=100, masked=False, rate=0.05, golden=False, **fields):
    full = config(**{**STILL, "mask_time_prob": 0.0, **fields})
    base = cls.base_model_prefix
    encoding = WaveformEncoding(windows=tuple(zip(full.conv_kernel, full.conv_stride, strict=True)))
    # {places of a sound: its samples at least}
    spans = np.searchsorted([encoding.places(n) for n in range(samples + 1)], range(1, encoding.places(samples) + 1))

    def sounds(examples, seed):
        audio = np.random.default_rng(seed).normal(size=(examples, samples)).astype(np.float32)
        if not masked:
            return {"audio": audio}
        places = np.linspace(2, len(spans), examples).astype(int)
        audio *= np.arange(samples) < spans[places - 1][:, None]
        return {"audio": audio, "attention_mask": (np.arange(len(spans)) < places[:, None]).astype(np.int32)}

    def heard(batch):
        theirs = {"input_values": torch.tensor(batch["audio"])}
        if masked:
            there = np.arange(samples) < spans[batch["attention_mask"].sum(1) - 1][:, None]
            theirs["attention_mask"] = torch.tensor(there.astype(np.int64))
        return theirs

    blocks = {f"block_{i}": f"{base}.encoder.layers.{i}" for i in range(full.num_hidden_layers)}
    stem = {"stem": f"{base}.feature_extractor", "project": f"{base}.encoder.dropout"}
    return Case(
        layout=("wav2vec2", "hf"),
        make=lambda: cls(full),
        units={**stem, **({} if full.use_weighted_layer_sum else blocks)},
        shaped={"stem": lambda x: x.transpose(0, 2, 1)},
        sounds=sounds,
        heard=heard,
        outputs=full.num_labels,
        last=r".*\.(out_proj|output_dense)",
        options=dict(seconds=samples / 16000, masked=masked),
        rate=rate,
        prepared=settled,
        golden=golden,
    )


WAV2VEC2, HUBERT = (Wav2Vec2ForSequenceClassification, Wav2Vec2Config), (HubertForSequenceClassification, HubertConfig)
CASES = {
    "odd": case(*WAV2VEC2, **ODD, golden=True),
    "stable": case(*WAV2VEC2, **STABLE, masked=True),
    "masked": case(*WAV2VEC2, **ODD, masked=True),
    "summed": case(*WAV2VEC2, **ODD, use_weighted_layer_sum=True, masked=True),
    "hubert": case(*HUBERT, **ODD, feat_proj_layer_norm=False),
    "base": case(*WAV2VEC2, samples=4000, rate=0.0),
}
