import torch
from torch import nn
from transformers import BitConfig, BitForImageClassification

from tests.parity.families import Case


def calm(model):
    """Half of what each block adds, which deep networks sum up."""
    for module in model.modules():
        if isinstance(module, nn.GroupNorm):
            with torch.no_grad():
                module.weight.mul_(0.5)
                module.bias.mul_(0.5)


def case(image, outputs=3, rate=0.4, golden=False, **config):
    of = BitConfig(num_labels=outputs, num_channels=image[2], **config)
    places = [(stage, i) for stage, blocks in enumerate(of.depths) for i in range(blocks)]
    return Case(
        layout=("bit", "hf"),
        make=lambda: BitForImageClassification(of),
        units={
            "stem": "bit.embedder",
            **{f"block_{n}": f"bit.encoder.stages.{stage}.layers.{i}" for n, (stage, i) in enumerate(places)},
        },
        image=image,
        spread=0.05,  # a standardised kernel of n taps enlarges by sqrt(n)
        outputs=outputs,
        last=r".*\.norm3" if config else r".*\.norm[13]",
        gain=0.5,
        prepared=(lambda model: None) if config else calm,
        rate=rate,
        golden=golden,
    )


TINY = dict(embedding_size=12, hidden_sizes=[16, 40], depths=[1, 2], num_groups=4)
CASES = {
    "odd": case((37, 26, 3), golden=True, **TINY),
    "same": case((33, 22, 1), global_padding="same", embedding_dynamic_padding=True, **TINY),
    "unpadded_pool": case((38, 29, 3), rate=0.0, global_padding="SAME", **TINY),
    "padded_twice": case((35, 30, 3), rate=0.0, embedding_dynamic_padding=True, **TINY),
    "bottleneck": case((37, 26, 3), layer_type="bottleneck", **TINY),
    "hybrid": case((34, 27, 3), layer_type="bottleneck", global_padding="SAME", embedding_dynamic_padding=True, **TINY),
    "50": case((224, 192, 3), outputs=1000, rate=0.0),
}
