"""Gradual unfreezing (Howard and Ruder, 2018, arXiv:1801.06146, sec. 3.3): the head, then ever lower units.

jaxfer run configs/digits.py:pretrain --workdir runs/digits/pretrain
jaxfer run configs/ladder.py --workdir runs/digits/ladder
"""

import jaxfer.config

UNITS = 5  # stem, three blocks, head


def get_config(arg=""):
    """arg: `tiny` for two steps on synthetic data."""
    words = jaxfer.config.words(arg, ("tiny",))
    config = jaxfer.config.base()
    config.model = dict(name="resnet", stage_sizes=(1, 1, 1), width=16, stem="cifar", image=(8, 8, 1))
    config.data = dict(source="digits", noise=64.0, labels_per_class=20, val_per_class=20)
    config.update(init="sibling:pretrain", head="reset")
    config.update(batch_size=50, steps=40, lr=3e-3)
    config.stages = ("head", "top", "middle", "all")
    config.stage.head = dict(method="probe", lr=3e-2)
    for name, frozen in [("top", UNITS - 2), ("middle", UNITS - 3), ("all", 0)]:
        config.stage[name] = dict(method="full", freeze_units=frozen, layer_decay=0.6)
    if "tiny" in words:
        config.update(init="scratch", head="auto")
        config.data = dict(source="synthetic", image=(8, 8, 1), examples=40)
        config.stages = ("head", "all")
        del config.stage.top, config.stage.middle
        config.update(batch_size=4, steps=1)
    return config
