"""Photos by class, PATH/{train,val,test}/CLASS/*.jpg: fine-tune a ViT, each unit slower the further from the head.

jaxfer run configs/image_folder.py --config.data.path=photos
jaxfer run configs/image_folder.py:lora --config.data.path=photos --config.init=run:runs/source
"""

import jaxfer.config


def get_config(arg=""):
    """arg: `full` (default) or `lora`, and `tiny` for two steps on synthetic data."""
    words = jaxfer.config.words(arg, ("full", "lora", "tiny"))
    config = jaxfer.config.base()
    config.model = dict(name="vit", image=(64, 64, 3), patch=8, width=192, layers=6, heads=3, mlp_width=768)
    config.data = dict(source="folder", augment=("crop", "flip"), val_fraction=0.1)
    config.update(batch_size=64, steps=1000, warmup=100, eval_every=100, select="best", clip=1.0)
    config.update(method="full", lr=1e-3, weight_decay=0.05, layer_decay=0.75)
    if "lora" in words:
        config.update(method="lora", lr=3e-3, layer_decay=1.0)
    if "tiny" in words:
        config.model = dict(name="vit", image=(8, 8, 3), patch=4, width=8, layers=2, heads=2, mlp_width=16)
        config.data = dict(source="synthetic", image=(8, 8, 3), examples=40, augment=("crop", "flip"))
        config.update(batch_size=4, steps=2, warmup=1)
    return config
