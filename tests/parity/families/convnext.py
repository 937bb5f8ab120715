from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    ConvNextV2Config,
    ConvNextV2ForImageClassification,
)

from tests.parity.families import Case


def case(version="", image=(224, 224, 3), **config):
    kind, build = {
        "": (ConvNextConfig, ConvNextForImageClassification),
        "v2": (ConvNextV2Config, ConvNextV2ForImageClassification),
    }[version]
    outputs = 3 if config else 1000
    stated = kind(num_labels=outputs, num_channels=image[2], num_stages=len(config.get("depths", range(4))), **config)
    places = [(stage, i) for stage, depth in enumerate(stated.depths) for i in range(depth)]
    name = f"convnext{version}"
    return Case(
        layout=("convnext", "hf"),
        make=lambda: build(stated),
        units={
            "stem": f"{name}.embeddings",
            **{f"block_{n}": f"{name}.encoder.stages.{stage}.layers.{i}" for n, (stage, i) in enumerate(places)},
        },
        image=image,
        outputs=outputs,
        last=r".*\.pwconv2",
        gain=4.0 if not version else 1.0 if config else 0.5,  # V1's layer scales are drawn small
        rate=0.05 if config else 0.0,
        golden=bool(config),
    )


CASES = {
    "odd": case(image=(17, 22, 3), hidden_sizes=[5, 7], depths=[1, 2], patch_size=4, layer_norm_eps=1e-3),
    "patch_3": case(image=(27, 13, 1), hidden_sizes=[6, 4, 9], depths=[1, 1, 1], patch_size=3),
    "v2": case("v2", (17, 22, 3), hidden_sizes=[5, 7], depths=[1, 2], patch_size=2),
    "tiny": case(),
    "v2_tiny": case("v2"),
}
