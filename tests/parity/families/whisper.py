import torch
from transformers import WhisperConfig, WhisperForConditionalGeneration

from jaxfer.models.whisper_encoder import sinusoids
from tests.parity.families import Case

ODD = dict(
    vocab_size=53,
    d_model=18,
    encoder_layers=2,
    encoder_attention_heads=3,
    encoder_ffn_dim=23,
    decoder_layers=3,
    decoder_attention_heads=2,
    decoder_ffn_dim=19,
    num_mel_bins=7,
    max_source_positions=9,
    max_target_positions=19,
    decoder_start_token_id=1,
    bos_token_id=2,
    eos_token_id=2,
    pad_token_id=2,
    begin_suppress_tokens=[4, 2],
    suppress_tokens=[7, 8],
)


def placed(model):
    """Positions are no parameters: back to what they were before the model was drawn."""
    weight = model.model.encoder.embed_positions.weight
    with torch.no_grad():
        weight.copy_(torch.from_numpy(sinusoids(*weight.shape)))


def case(rate=0.2, golden=False, **config):
    full = WhisperConfig(**config)
    layers = {"encoder": full.encoder_layers, "decoder": full.decoder_layers}
    units = {f"{trunk}_block_{i}": f"model.{trunk}.layers.{i}" for trunk, count in layers.items() for i in range(count)}
    frames = 2 * full.max_source_positions
    return Case(
        layout=("whisper", "hf"),
        make=lambda: WhisperForConditionalGeneration(full),
        units={**units, "encoder_norm": "model.encoder.layer_norm"},
        audio=(frames, full.num_mel_bins),
        target=11,
        last=r".*\.(out_proj|fc2)",
        options=dict(head="seq2seq", seconds=frames / 100, prefix=(5, 6), target_length=19),
        read=lambda logits: logits.mean(1),
        rate=rate,
        prepared=placed,
        golden=golden,
    )


CASES = {"odd": case(**ODD, golden=True), "tiny": case(rate=0.0)}
