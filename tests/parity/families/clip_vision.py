from transformers import CLIPConfig, CLIPForImageClassification

from tests.parity.families import Case

SIZES = dict(hidden_size=15, num_hidden_layers=2, num_attention_heads=3, intermediate_size=22, patch_size=4)
ODD = dict(SIZES, image_size=12)
LAST = r".*(self_attn\.out_proj|mlp\.fc2)"
UNREAD = r"vision_model\.post_layernorm\..*|text_.*|logit_scale"


def case(image, rate=0.1, **config):
    blocks = range(config.get("num_hidden_layers", 12))
    units = {f"block_{i}": f"vision_model.encoder.layers.{i}" for i in blocks}
    return Case(
        layout=("clip_vision", "hf"),
        make=lambda: CLIPForImageClassification(CLIPConfig(vision_config=config, num_labels=3)),
        units={"stem": "vision_model.pre_layrnorm", **units},
        image=image,
        last=LAST,
        rate=rate,
        unread=UNREAD,
        golden=bool(rate),
    )


CASES = {
    "odd": case((12, 12, 3), **ODD),
    "gelu": case((8, 8, 2), **dict(SIZES, image_size=8, num_channels=2, hidden_act="gelu", layer_norm_eps=0.01)),
    "b_32": case((224, 224, 3), rate=0.0),
}
