from transformers import (
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersForImageClassification,
)

from tests.parity.families import Case

ODD = dict(hidden_size=15, num_hidden_layers=2, num_attention_heads=3, mlp_ratio=2, image_size=12, patch_size=4)
LAST = r".*(attention\.o_proj|mlp\.fc2|mlp\.down_proj)"


def case(image, registers=0, rate=0.2, **config):
    kind, model = Dinov2Config, Dinov2ForImageClassification
    if registers:
        kind, model = Dinov2WithRegistersConfig, Dinov2WithRegistersForImageClassification
        config["num_register_tokens"] = registers
    prefix = "dinov2_with_registers" if registers else "dinov2"
    blocks = range(config.get("num_hidden_layers", 12))
    units = {"stem": f"{prefix}.embeddings", **{f"block_{i}": f"{prefix}.encoder.layer.{i}" for i in blocks}}
    return Case(
        layout=("dinov2", "hf"),
        make=lambda: model(kind(num_labels=3, layerscale_value=0.7, **config)),
        units=units,
        image=image,
        last=LAST,
        rate=rate,
        unread=r".*\.mask_token",
        golden=bool(rate),
    )


CASES = {
    "odd": case((12, 20, 3), **ODD),
    "registers": case((20, 12, 2), registers=2, num_channels=2, **{**ODD, "image_size": 24}),
    "gated": case((12, 12, 3), use_swiglu_ffn=True, qkv_bias=False, **ODD),
    # ViT-S/14 with registers at its published size.
    "small": case(
        (112, 126, 3), registers=4, rate=0.0, hidden_size=384, num_attention_heads=6, image_size=518, patch_size=14
    ),
}
