"""Is the outline of a bone in an X-ray right? From one bone of the hand to another: a 1-D residual network, few labels.

jaxfer compare configs/phalanx.py --processes 2    # scratch, and transfers from each of the two other bones
jaxfer run configs/phalanx.py:pretrain --workdir runs/phalanx/pretrain
jaxfer run configs/phalanx.py:full --workdir runs/phalanx/full

Test accuracy by the first command, 20 labels a class, 3 seeds: scratch 0.670 ± 0.017, probe 0.552 ± 0.290, full
0.682 ± 0.162, full from Distal 0.731 ± 0.105; 6, 3, 9 and 12 s a run. No evidence either way for any transfer: full
from Distal is +0.061 over scratch, 95 % interval [-0.041, +0.163]. A probe of Proximal's features stays near chance on
val.
"""

import jaxfer.config
from jaxfer.sweeps import Cell

METHODS = ("full", "probe")
TARGET, SOURCE, OTHER = "Middle", "Proximal", "Distal"


def get_config(arg=""):
    """arg: `pretrain` (Proximal), `other` (Distal) or one of METHODS (default `full`, Middle), and `tiny`."""
    words = jaxfer.config.words(arg, ("pretrain", "other", "tiny", *METHODS))
    config = jaxfer.config.base()
    bone = SOURCE if "pretrain" in words else OTHER if "other" in words else TARGET
    config.model = dict(name="series_cnn", widths=(32, 64, 64), length=80)
    config.data = dict(source="npz", path=f"timeseries/{bone}PhalanxOutlineCorrect.npz", val_per_class=50)
    if words & {"pretrain", "other"}:
        config.update(batch_size=50, steps=300, lr=2e-3, warmup=20, weight_decay=1e-2, eval_every=0)
    else:
        config.update(init="sibling:pretrain", head="keep")  # right or wrong: the same two classes in every bone
        config.data.labels_per_class = 20
        config.update(batch_size=20, steps=100, eval_every=25, select="best")
    config.compare.sources.other = "sibling:other"
    config.compare.update(methods=("probe", "full", "full@other"), seeds=3, trials=3)
    if "probe" in words:
        config.update(method="probe", lr=1e-2)
    if "tiny" in words:
        config.update(init="scratch", head="auto")
        config.model = dict(name="series_cnn", widths=(4,), length=9)
        config.data = dict(source="npz", path="tests/data/series.npz")
        config.update(batch_size=4, steps=2, warmup=0)
    return config


def sweep():
    """The two bones that `compare` starts from."""
    yield Cell(name="pretrain", arg="pretrain")
    yield Cell(name="other", arg="other")
