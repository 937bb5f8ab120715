import torch
from transformers import WhisperConfig, WhisperForAudioClassification

from jaxfer.models.whisper_encoder import sinusoids
from tests.parity.families import Case

ODD = dict(
    d_model=30,
    encoder_layers=2,
    encoder_attention_heads=3,
    encoder_ffn_dim=27,
    num_mel_bins=7,
    max_source_positions=9,
    classifier_proj_size=11,
    num_labels=3,
)


def placed(model):
    """Positions are no parameters: back to what they were before the model was drawn."""
    weight = model.encoder.embed_positions.weight
    with torch.no_grad():
        weight.copy_(torch.from_numpy(sinusoids(*weight.shape)))


def case(**config):
    full = WhisperConfig(**config)
    units = {f"block_{i}": f"encoder.layers.{i}" for i in range(full.encoder_layers)}
    frames = 2 * full.max_source_positions
    return Case(
        layout=("whisper_encoder", "hf"),
        make=lambda: WhisperForAudioClassification(full),
        units=units,
        audio=(frames, full.num_mel_bins),
        outputs=full.num_labels,
        last=r".*\.(out_proj|fc2)",
        options=dict(seconds=frames / 100),
        rate=0.05 if config else 0.0,
        prepared=placed,
        golden=bool(config),
    )


CASES = {"odd": case(**ODD), "tiny": case()}
