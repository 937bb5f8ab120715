"""Makes `timm_vit.npz` and `timm_deit.npz`: logits of timm's ViT and distilled DeiT at a tiny size, and their weights.

python -m tests.models.golden.make_timm        (needs PyTorch, torchvision and timm, which no extra installs)
"""

from __future__ import annotations

import json

import numpy as np
import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer

from tests.models.golden.make import FOLDER

TINY = dict(img_size=(8, 12), patch_size=4, embed_dim=12, depth=2, num_heads=3, mlp_ratio=1.5, num_classes=5)


def main() -> None:
    for name, kind in (("timm_vit", VisionTransformer), ("timm_deit", VisionTransformerDistilled)):
        torch.manual_seed(0)
        model = kind(**TINY).eval()
        with torch.no_grad():
            for leaf in model.parameters():
                leaf.copy_(leaf.normal_(0, 0.4).half().float())
            x = torch.randn(2, 3, 8, 12).half().float()
            logits = model(x).numpy()
        weights = {key: leaf.numpy() for key, leaf in model.state_dict().items()}
        np.savez_compressed(
            FOLDER / f"{name}.npz",
            index=np.frombuffer(json.dumps({key: leaf.shape for key, leaf in weights.items()}).encode(), np.uint8),
            weights=np.concatenate([leaf.ravel() for leaf in weights.values()]).astype(np.float16),
            x=x.numpy().astype(np.float16),
            logits=logits,
        )


if __name__ == "__main__":
    main()
