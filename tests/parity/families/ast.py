import torch
from transformers import ASTConfig, ASTForAudioClassification

from tests.parity.families import Case

ODD = dict(
    hidden_size=12,
    num_hidden_layers=3,
    num_attention_heads=3,
    intermediate_size=22,
    patch_size=4,
    frequency_stride=3,
    time_stride=2,
    max_length=13,
    num_mel_bins=11,
    num_labels=3,
)


def case(**config):
    full = ASTConfig(**{"num_labels": 3, **config})
    base = "audio_spectrogram_transformer"
    blocks = {f"block_{i}": f"{base}.layers.{i}" for i in range(full.num_hidden_layers)}
    return Case(
        layout=("ast", "hf"),
        make=lambda: ASTForAudioClassification(full),
        units={"stem": f"{base}.embeddings", **blocks},
        audio=(full.max_length, full.num_mel_bins),
        heard=lambda batch: torch.tensor(batch["audio"]),
        outputs=full.num_labels,
        last=r".*\.(o_proj|fc2)",
        rate=0.05 if "patch_size" in config else 0.0,
        golden=config == ODD,
    )


CASES = {"odd": case(**ODD), "no_bias": case(**ODD, qkv_bias=False), "base": case(num_labels=35, max_length=128)}
