"""Heart disease from one clinic to another (UCI, 13 columns): a model of Cleveland's rows, few labels elsewhere.

jaxfer compare configs/heart.py --processes 2                  # Hungary; also :va and :switzerland
jaxfer run configs/heart.py:pretrain --workdir runs/heart/pretrain
jaxfer run configs/heart.py --workdir runs/heart/hungarian

Test accuracy by the first command, Hungary, 10 labels a class, 3 seeds: scratch 0.749 ± 0.061, probe 0.781 ± 0.032,
full 0.821 ± 0.064; 4, 2 and 2 s a run. No evidence either way: full is +0.071 over scratch, 95 % interval [-0.050,
+0.192].
Logistic regression on the same 20 rows has 0.838 ± 0.021. The VA: scratch 0.600 ± 0.082, probe 0.629 ± 0.109, full
0.688 ± 0.062; full helps, +0.088 [+0.056, +0.119]; logistic regression 0.675 ± 0.135. Switzerland, 2 labels a class:
0.442 ± 0.394, 0.463 ± 0.155 and 0.510 ± 0.232, no evidence; the majority class has 0.061, logistic regression 0.748.
"""

import jaxfer.config
from jaxfer.sweeps import Cell

# {clinic: (examples of each class for validation, labels of each class)}; Switzerland has 8 healthy rows in all.
CLINICS = {"hungarian": (20, 10), "va": (15, 10), "switzerland": (2, 2)}
NUMBERS = ("age", "trestbps", "chol", "thalach", "oldpeak", "ca")
CATEGORIES = ("sex", "cp", "fbs", "restecg", "exang", "slope", "thal")


def get_config(arg=""):
    """arg: `pretrain` (Cleveland) or a clinic (default `hungarian`), `probe` or `full` (default), and `tiny`."""
    words = jaxfer.config.words(arg, ("pretrain", "probe", "full", "tiny", *CLINICS))
    config = jaxfer.config.base()
    clinic = next((name for name in CLINICS if name in words), "hungarian")
    val, labels = CLINICS[clinic]
    config.model = dict(name="row_mlp", dropout=0.2)  # means, values of categories, ...: from its training rows
    config.data = dict(
        source="csv_rows",
        numbers=NUMBERS,
        categories=CATEGORIES,
        label="disease",
        zero_is_missing=("chol", "trestbps"),
        path=f"tabular/heart/{clinic}.csv",
        test_fraction=0.4,
        val_per_class=val,
        labels_per_class=labels,
    )
    config.update(init="sibling:pretrain", head="keep")  # ill or not: the same two classes in every clinic
    config.update(batch_size=2 * labels, steps=100, eval_every=10, select="best")
    config.compare.update(methods=("probe", "full"), seeds=3, trials=3)
    if "pretrain" in words:
        config.update(init="scratch", head="auto")
        config.data.update(path="tabular/heart/cleveland.csv", test_fraction=0.0, val_per_class=30, labels_per_class=0)
        config.update(batch_size=32, steps=300, eval_every=50, lr=2e-3, warmup=20, weight_decay=1e-2)
    if "probe" in words:
        config.update(method="probe", lr=1e-2)
    if "tiny" in words:
        config.update(init="scratch", head="auto")
        config.model = dict(name="row_mlp", width=4, mlp_width=6, embedding=2)
        config.data = dict(source="csv_rows", path="tests/data/rows", numbers=("size",), categories=("colour",))
        config.update(batch_size=4, steps=2, eval_every=0, select="last")
    return config


def sweep():
    """The clinic that `compare` starts from."""
    yield Cell(name="pretrain", arg="pretrain")
