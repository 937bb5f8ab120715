from transformers import BeitConfig, BeitForImageClassification

from tests.parity.families import Case

SMALL = dict(hidden_size=15, num_hidden_layers=2, num_attention_heads=3, intermediate_size=22, patch_size=4)


def case(image=(224, 224, 3), rate=0.2, **config):
    stated = BeitConfig(num_labels=3, num_channels=image[2], image_size=image[0], drop_path_rate=0.0, **config)
    units = {"stem": "beit.embeddings"}
    units |= {f"block_{i}": f"beit.layers.{i}" for i in range(stated.num_hidden_layers)}
    return Case(
        layout=("beit", "hf"),
        make=lambda: BeitForImageClassification(stated),
        units=units,
        image=image,
        last=r".*(o_proj|mlp\.fc2)",
        gain=1.0 if rate else 0.5,
        rate=rate,
        golden=bool(rate),
    )


CASES = {
    "odd": case((12, 12, 3), use_relative_position_bias=True, **SMALL),
    "shared": case((16, 16, 2), use_shared_relative_position_bias=True, use_mean_pooling=False, **SMALL),
    "base": case(rate=0.0, use_relative_position_bias=True),
}
