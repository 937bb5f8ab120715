"""The table of test_bad_input.py: what a user gets wrong, and what the message must hold."""

from __future__ import annotations

CONFIG = """
import jaxfer.config


def get_config(arg=""):
    words = jaxfer.config.words(arg, ("vit", "lora", "stages"))
    config = jaxfer.config.base()
    config.model = dict(name="resnet", stage_sizes=(1, 1), width=4, stem="cifar", image=(8, 8, 3))
    if "vit" in words:
        config.model = dict(name="vit", patch=4, width=8, layers=2, heads=2, mlp_width=8, image=(8, 8, 3))
    config.data = dict(source="synthetic", image=(8, 8, 3), examples=40)
    config.update(batch_size=4, steps=2)
    if "lora" in words:
        config.method = "lora"
    if "stages" in words:
        config.stages = ("probe", "full")
        config.stage.probe = dict(method="probe", steps=1)
        config.stage.full = dict(method="full", steps=1)
    {line}
    return config
"""

NPZ, FOLDER = "--config.data.source=npz --config.data.path=", "--config.data.source=folder --config.data.path="
TARGET = "--config.stream.target.source=synthetic --config.stream.target.image=8,8,3"
GRID = "--config.method=probe --config.options.grid="
FIT = "--config.method=probe --config.options.fit="
NEW, DONE = "--workdir=runs/new", "--workdir=runs/done"

# {case: (command line, fragments of the message: what was expected, what was found, the fix)}
COMMANDS = {
    # rankings
    "a ranking of nothing": (
        "rank c.py --candidates=",
        ["--candidates: expected checkpoints", "found none", "name some"],
    ),
    "a candidate that is there twice": (
        "rank c.py --candidates=runs/done,run:runs/done",
        ["--candidates: expected each once", "run:runs/done twice (also as runs/done)", "leave one out"],
    ),
    "a ranking by an unknown score": (
        "rank c.py --candidates=scratch --by=log_me",
        ["--by: expected some of logme", "found 'log_me'", "nearest: 'logme'"],
    ),
    "a ranking for values": (
        "rank c.py --candidates=runs/done --config.task.name=regression",
        ["runs/done", "config.task.name: expected classification", "found 'regression'"],
    ),
    # spans
    "span on a ResNet": (
        "show c.py --config.task.name=span",
        ["task 'span' needs a model with the head 'token'", "'resnet' has pooled", "choose another task or model"],
    ),
    "an answer that is not in its context": (
        "show c.py --config.data.source=squad --config.data.path=data/questions",
        ["1 of 1 rows", "train.jsonl:1 (id 'q1'): the answer 'film' is not in its context at 3", "data.bad_rows=1"],
    ),
    # similarity
    "similarity on a ResNet": (
        "show c.py --config.task.name=similarity --config.data.target=value",
        ["task 'similarity' reads pairs of texts, model 'resnet' reads images", "choose another of the two"],
    ),
    "similarity by another loss": (
        "show c.py --config.task.name=similarity --config.task.loss=cosin",
        ["unknown config.task.loss 'cosin'", "nearest: 'cosine'"],
    ),
    # averages, dropout, repetitions
    "schedule_free among the optimizers": (
        "show c.py --config.optimizer=schedule_free",
        ["config.optimizer: schedule_free is an add-on", 'set config.adds=("schedule_free",) and keep an optimizer'],
    ),
    "averages under statistics that follow the batches": (
        "show c.py --config.adds=swa",
        [
            "config.adds: method 'full' with swa averages parameters",
            "the statistics of",
            "set config.norms=((.*, eval),)",
        ],
    ),
    "a dropout rule for no module": (
        "show c.py --config.dropout_rules=(('blok_0/drop',0.1),)",
        ["config.dropout_rules pattern 'blok_0/drop' matches", "nearest: 'block_0"],
    ),
    "no best checkpoint": ("show c.py --config.keep_best=0", ["config.keep_best: expected at least 1, found 0"]),
    "repetitions that are all alike": (
        "show c.py --config.data.repeats=3",
        ["data.repeats: expected at least 2, or 0, for examples that are augmented", "found 3 and no data.augment"],
    ),
    "a data set of the Hub without its owner": (
        f"show c.py {FOLDER}hub:flowers",
        ["data.path: expected hub:ORGANISATION/NAME[@REVISION][/FOLDER], found 'hub:flowers'"],
    ),
    # losses for classes of unequal size
    "an unknown loss": (
        "show c.py --config.task.loss=focul",
        ["unknown config.task.loss 'focul'", "nearest: 'focal'", "none is the plain loss"],
    ),
    "a power without its loss": (
        "show c.py --config.task.gamma=2",
        ["config.task.gamma: nothing reads it", "set config.task.loss=focal, or leave it out"],
    ),
    "a negative power": (
        "show c.py --config.task.loss=focal --config.task.gamma=-1",
        ["config.task.gamma: expected at least 0, found -1.0"],
    ),
    "weights of other classes": (
        "show c.py --config.task.class_weights=1,2",
        ["config.task.class_weights: expected 4 weights, in the order of the classes, found 2", "correct it"],
    ),
    "a fit of a weighted loss": (
        f"show c.py {FIT}ridge --config.task.class_weights=balanced",
        ["config.task.class_weights: ridge fits the plain loss, found 'balanced'", "omit it"],
    ),
    # methods that read their source's head
    "co-tuning from scratch": (
        "show c.py --config.method=cotuning",
        ["'cotuning' reads the head of a source that classifies", "config.init is 'scratch'", "use another method"],
    ),
    "co-tuning after another stage": (
        "show c.py:stages --config.init=run:runs/done --config.stage.full.method=cotuning",
        ["config.stage.full.method: 'cotuning' reads the source's head", "don't keep", "make it the first stage"],
    ),
    "elastic weights from scratch": (
        "show c.py --config.method=ewc",
        ["'ewc' reads the head of a source that classifies", "config.init is 'scratch'", "use another method"],
    ),
    "elastic weights under a new head": (
        f"run c.py {NEW} --config.method=ewc --config.init=run:runs/done --config.data.classes_count=3",
        ["'ewc' measures the source on data of its own classes", "makes a new head for others", "config.head=keep"],
    ),
    # heads that are fitted at once
    "an unknown fit": (
        f"show c.py {FIT}lbgfs",
        ["probe: expected fit to be ridge or lbfgs or prototypes, found 'lbgfs'", "nearest: 'lbfgs'"],
    ),
    "penalties without a fit": (
        "show c.py --config.method=probe --config.options.penalties=1,10",
        ["probe: penalties are for a fit at once", "set fit to ridge or lbfgs"],
    ),
    "a penalty of zero": (
        f"show c.py {FIT}ridge --config.options.penalties=1,0",
        ["probe: expected distinct positive penalties, found (1.0, 0.0)", "correct or omit them"],
    ),
    "logistic regression of a number": (
        f"show c.py {FIT}lbfgs --config.task.name=regression --config.data.target=value",
        ["config.options.fit: lbfgs fits the task classification, config.task is 'regression'", "omit it"],
    ),
    "a fit under an add-on": (
        f"show c.py {FIT}ridge --config.adds=ema",
        ["config.adds: add-ons change steps, and ridge takes none", "remove ema"],
    ),
    "a fit in slices": (
        f"show c.py {FIT}ridge --config.accumulate=2",
        ["config.accumulate: ridge takes no slices of a batch, found 2 slices", "set it to 1"],
    ),
    "a fit of half a layer": (
        f"show c.py {FIT}ridge --config.freeze=head/out/bias",
        ["config: ridge fits head/out/bias and head/out/kernel", "found head/out/kernel trainable", "config.freeze"],
    ),
    "a fit of augmented images": (
        f"show c.py {FIT}ridge --config.data.augment=flip",
        ["config.options.fit: ridge needs features that stay the same", "the examples are augmented (flip)", "omit it"],
    ),
    "a fit beside a stream": (
        f"show c.py {FIT}ridge {TARGET}",
        ["ridge needs features that stay the same", "other streams or networks read the same batches", "omit it"],
    ),
    "a fit under pmap": (
        f"show c.py {FIT}ridge --config.parallel.mode=pmap",
        ["ridge needs features that stay the same", "pmap and several processes compute features in each step"],
    ),
    "a trace of steps that a fit has not": (
        f"show c.py {FIT}ridge --config.profile=1,2",
        ["config.profile: expected steps in 1..1, as a fit counts as one, found (1, 2)", "correct it"],
    ),
    # a grid of heads
    "an unknown grid": (
        f"show c.py {GRID}dino",
        ["probe: expected grid to be dinov2, found 'dino'", "nearest: 'dinov2'"],
    ),
    "a grid and a fit": (
        f"show c.py {GRID}dinov2 --config.options.fit=ridge",
        ["probe: fit='ridge' and grid='dinov2' are two ways to fit one head", "omit one of them"],
    ),
    "epochs without a grid": (
        "show c.py --config.method=probe --config.options.epochs=3",
        ["probe: epochs are for a grid", "set grid to dinov2"],
    ),
    "epochs of a fit": (
        f"show c.py {FIT}ridge --config.options.epochs=3",
        ["probe: epochs are for a grid", "set grid to dinov2"],
    ),
    "no epoch": (
        f"show c.py {GRID}dinov2 --config.options.epochs=0",
        ["probe: epochs must be a positive integer, found 0", "correct or omit it"],
    ),
    "a grid of augmented images": (
        f"show c.py {GRID}dinov2 --config.data.augment=flip",
        ["config.options.grid: dinov2 needs features that stay the same", "the examples are augmented", "omit it"],
    ),
    "class tokens of more blocks than there are": (
        "show c.py:vit --config.model.last=3",
        ["last must be at most the number of layers", "found last=3 and layers=2"],
    ),
    # other networks
    "distillation without a teacher": (
        "show c.py --config.method=distill",
        ["method 'distill' reads the network config.networks.teacher", "not set", "run:FOLDER", "a checkpoint"],
    ),
    "a teacher that no method reads": (
        "show c.py --config.networks.teacher=run:runs/done",
        ["config.networks.teacher: no method reads such a network", "remove it"],
    ),
    "a misspelt network": (
        "show c.py --config.method=distill --config.networks.teacher=run:runs/done --config.networks.techer=run:x",
        ["config.networks.techer: no method reads such a network", "nearest: 'teacher'"],
    ),
    "a teacher that is no run": (
        "show c.py --config.method=distill --config.networks.teacher=run:runs/absent",
        ["config.networks.teacher=run:runs/absent: no run at", "train it first"],
    ),
    "an unfinished teacher": (
        "show c.py --config.method=distill --config.networks.teacher=run:runs/unfinished",
        ["config.networks.teacher=run:runs/unfinished", "is not finished; finish it first"],
    ),
    "a teacher from scratch": (
        "show c.py --config.method=distill --config.networks.teacher=scratch",
        ["config.networks.teacher: expected run:FOLDER, sibling:NAME or a checkpoint, found 'scratch'"],
    ),
    "a teacher of other classes": (
        "show c.py --config.method=distill --config.networks.teacher=run:runs/done --config.data.classes_count=3",
        ["its classes are class_0, class_1, class_2, class_3", "this data's are class_0, class_1, class_2;", "choose"],
    ),
    "a teacher for another task": (
        "show c.py --config.method=distill --config.networks.teacher=run:runs/done --config.task.name=multilabel",
        ["'distill' learns the task classification, config.task is 'multilabel'", "choose another of the two"],
    ),
    # samplers
    "an unknown sampler": (
        "show c.py --config.data.sampling=oversampling",
        ["unknown data.sampling 'oversampling'", "nearest: 'oversample'"],
    ),
    "a sampler of numbers": (
        "show c.py --config.data.target=value --config.task.name=regression --config.data.sampling=balanced",
        ["data.sampling=balanced needs one class per example", "this data's targets are value", "remove it"],
    ),
    "a sampler without labels": (
        "show c.py --config.task.name=unlabelled --config.method=simclr --config.data.sampling=balanced "
        "--config.stream.view.rows=same",
        ["data.sampling=balanced has no effect: task 'unlabelled' reads no labels", "remove it"],
    ),
    "a sampler of a fit": (
        f"show c.py {FIT}ridge --config.data.sampling=undersample",
        ["config.data.sampling: ridge fits all training examples alike", "found 'undersample'", "remove it"],
    ),
    "a sampler of sealed labels": (
        f"show c.py {TARGET} --config.stream.target.sampling=balanced",
        ["config.stream.target.sampling=balanced chooses examples by their labels", "stay sealed", "set its task"],
    ),
    # streams
    "dann without its stream": (
        "show c.py --config.method=dann",
        ["'dann' reads the stream 'target'", "add config.stream.target=dict(source=...)"],
    ),
    "dann on a stream with labels": (
        f"show c.py --config.method=dann {TARGET} --config.stream.target.task=classification",
        ["config.stream.target.task=classification", "labels would leak into it", "remove it"],
    ),
    "dann on a second view": (
        "show c.py --config.method=dann --config.stream.target.rows=same",
        ["config.stream.target.rows: method 'dann' reads rows='own', found 'same'"],
    ),
    "replay of examples without labels": (
        f"show c.py --config.method=er {TARGET.replace('target', 'memory')}",
        ["config.stream.memory.task: method 'er' trains on its labels", "name the task"],
    ),
    "labels of a stream that has none": (
        f"show c.py {TARGET} --config.stream.target.labels_per_class=3",
        ["config.stream.target.labels_per_class=3 chooses examples by their labels, which stay sealed", "set its task"],
    ),
    "few labels of a stream that has none": (
        f"show c.py {TARGET} --config.stream.target.labels=3",
        ["config.stream.target.labels=3 chooses examples by their labels, which stay sealed", "set its task"],
    ),
    "classes of a stream that has none": (
        f"show c.py {TARGET} --config.stream.target.classes=class_0,class_1",
        ["config.stream.target.classes=", "by their labels, which stay sealed"],
    ),
    "validation on sealed labels": (
        f"show c.py {TARGET} --config.stream.target.val_fraction=0.2",
        ["config.stream.target: val_fraction=0.2 draws by labels, which stay sealed here", "remove it"],
    ),
    "weight of a stream without a task": (
        f"show c.py {TARGET} --config.stream.target.weight=3",
        ["config.stream.target.weight=3.0 is of the loss of its task, and it has none", "set its task"],
    ),
    "negative weight of a stream": (
        f"show c.py {TARGET} --config.stream.target.weight=-1 --config.stream.target.task=classification",
        ["config.stream.target.weight: expected at least 0, found -1.0"],
    ),
    "stream without a source": (
        "show c.py --config.stream.x.task=classification",
        ["config.stream.x.source: expected one of conll,", "found nothing"],
    ),
    "stream of a missing file": (
        "show c.py --config.stream.x.source=npz --config.stream.x.path=data/absent.npz",
        ["config.stream.x: data.path does not exist", "'data/absent.npz'"],
    ),
    "stream of no examples": (
        "show c.py --config.stream.x.source=npz --config.stream.x.path=data/none.npz",
        ["config.stream.x: expected train_image to be", "found [0, 8, 8, 3]"],
    ),
    "stream that the model can't read": (
        "show c.py --config.stream.x.source=squad --config.stream.x.path=data/answers",
        ["config.stream.x: the model reads images, the data source has texts", "choose another"],
    ),
    "misspelt field of a stream": (
        f"show c.py {TARGET} --config.stream.target.batch_sise=3",
        ["unknown field config.stream.target.batch_sise", "nearest: 'stream.target.batch_size'"],
    ),
    "misspelt option of a stream's source": (
        f"show c.py {TARGET} --config.stream.target.exmaples=3",
        ["unknown field config.stream.target.exmaples", "nearest: 'stream.target.examples'"],
    ),
    "misspelt rows": (
        "show c.py --config.stream.x.rows=smae",
        ["config.stream.x.rows: expected one of own, same, pairs, found 'smae'"],
    ),
    "second view with a source": (
        "show c.py --config.stream.x.rows=same --config.stream.x.source=synthetic",
        ["config.stream.x.source: a stream with rows='same' has the main data", "remove it"],
    ),
    "second view of another size": (
        "show c.py --config.stream.x.rows=same --config.stream.x.batch_size=4",
        ["config.stream.x.batch_size: a second view has the examples of the main batch", "remove it"],
    ),
    "partners of another size": (
        "show c.py --config.stream.x.rows=pairs --config.stream.x.batch_size=4",
        ["config.stream.x.batch_size: there is a partner for each example of the main batch", "remove it"],
    ),
    "partners with a task": (
        "show c.py --config.stream.x.rows=pairs --config.stream.x.task=classification",
        ["config.stream.x.task=classification: partners are for a method that compares them", "remove it"],
    ),
    "pairs without their stream": (
        "show c.py --config.method=setfit",
        ["config.method: 'setfit' reads the stream 'partner'", "add config.stream.partner=dict(rows='pairs')"],
    ),
    "pairs of the same examples": (
        "show c.py --config.method=setfit --config.stream.partner.rows=same",
        ["config.stream.partner.rows: method 'setfit' reads rows='pairs', found 'same'"],
    ),
    "stream named like a parameter": (
        "show c.py --config.stream.kernel.rows=same --config.stream.kernel.task=classification",
        ["config.stream.kernel: the head has a parameter of this name", "rename the stream"],
    ),
    "stream named like a field of the batch": (
        "show c.py --config.stream.image.rows=same",
        ["config.stream.image: batches have a field of this name", "rename the stream"],
    ),
    "stream with a capital": ("show c.py --config.stream.Big.rows=same", ["small letters, digits and _, found 'Big'"]),
    "unknown task of a stream": (
        f"show c.py {TARGET} --config.stream.target.task=clasification",
        ["config.stream.target.task: unknown task 'clasification'", "nearest: 'classification'"],
    ),
    "task of a stream that its model has no head for": (
        f"show c.py {TARGET} --config.stream.target.task=tagging",
        ["config.stream.target: task 'tagging' needs a model with the head 'token'"],
    ),
    "task of a stream that its data has no labels for": (
        f"show c.py {TARGET} --config.stream.target.task=regression",
        ["config.stream.target: task 'regression' needs real targets", "--config.stream.target.task=classification"],
    ),
    "masks from a stream without": (
        f"show c.py {TARGET} --config.stream.target.task=segmentation",
        ["config.stream.target: task 'segmentation' learns 'mask', its source has image and class"],
    ),
    "a stage's own task beside a stream's": (
        "show c.py:stages --config.stage.probe.task=multilabel --config.stream.x.rows=same "
        "--config.stream.x.task=classification",
        ["config.stage.probe.task: a stage with a task of its own has no heads of other streams", "config.stream.x"],
    ),
    "stream's batch not divisible": (
        f"run c.py {NEW} {TARGET} --config.stream.target.batch_size=6 --config.parallel.devices=4",
        ["config.stream.target.batch_size: 6 examples can't be split over 4 devices", "use 4 or"],
    ),
    "stream's batch in slices": (
        f"run c.py {NEW} {TARGET} --config.stream.target.batch_size=5 --config.accumulate=2",
        ["config.stream.target.batch_size: 5 examples can't be split over 2 devices in 2 slices"],
    ),
    # selection rules
    "misspelt freeze rule": (
        "show c.py --config.freeze=blok_0/.*",
        ["freeze rule 'blok_0/.*' matches no parameter", "nearest: 'block_0/.*' (6 leaves)"],
    ),
    "freeze rule far from every name": (
        "show c.py --config.freeze=xyz",
        ["matches no parameter", "top-level names: block_0, block_1, head, stem"],
    ),
    "shadowed freeze rule": (
        "show c.py --config.freeze=stem/.*,stem/conv/.*",
        ["'stem/conv/.*' claims nothing", "(1 leaf) went to the earlier 'stem/.*'", "move it up or remove it"],
    ),
    "bad regex": (
        "show c.py --config.freeze=stem/[",
        ["freeze rule 'stem/['", "is not a regular expression", "unterminated"],
    ),
    "lr rule matches nothing": (
        "show c.py --config.lr_rules=(('steem/.*',0.1),)",
        ["lr rule 'steem/.*' matches no parameter", "nearest: 'stem/.*' (3 leaves)"],
    ),
    "decay rule matches nothing": (
        "show c.py --config.decay_rules=(('steem/.*',0.1),)",
        ["decay rule 'steem/.*' matches no parameter", "'stem/.*'"],
    ),
    "negative grace": ("show c.py --config.grace=-1", ["config.grace: expected at least 0, found -1.0"]),
    "negative rule": (
        "show c.py --config.lr_rules=(('stem/.*',-1),)",
        ["config.lr_rules: expected at least 0 for 'stem/.*', found -1.0"],
    ),
    "rule that is no pair": ("show c.py --config.lr_rules=stem", ["config.lr_rules: expected tuple[tuple[str, float]"]),
    "eval_norms matches nothing": (
        "show c.py --config.eval_norms=steem/norm",
        ["config.eval_norms pattern 'steem/norm'", "nearest: 'stem/norm'"],
    ),
    "eval_norms of a model without": ("show c.py:vit --config.eval_norms=stem.*", ["this model has none of that kind"]),
    "freeze everything": ("show c.py --config.freeze=.*", ["everything is frozen", "loosen freeze or freeze_units"]),
    "freeze too many units": (
        "show c.py --config.freeze_units=4",
        ["freeze_units: the model is 4 units deep, found 4"],
    ),
    "freeze a negative number of units": ("show c.py --config.freeze_units=-1", ["expected at least 0, found -1"]),
    # methods
    "unknown method": ("show c.py --config.method=loraa", ["unknown method 'loraa'", "nearest: 'lora'"]),
    "unknown option of a method": (
        "show c.py:lora --config.options.rnak=3",
        ["config.options.rnak", "method 'lora' has no such option", "nearest: 'rank'"],
    ),
    "rank 0": ("show c.py:lora --config.options.rank=0", ["lora: expected rank >= 1, found 0"]),
    "rank that is no int": ("show c.py:lora --config.options.rank=2.5", ["options.rank: expected int, found 2.5"]),
    "nan with two signs": ("show c.py --config.lr=++nan", ["config.lr: expected float, found '++nan'"]),
    "infinite strength": (
        "show c.py --config.method=l2sp --config.options.alpha=inf",
        ["config.options.alpha: expected a finite number, found inf"],
    ),
    "lora targets match nothing": (
        "show c.py:lora --config.options.targets=blok_0/.*",
        ["lora target 'blok_0/.*' matches no parameter", "nearest: 'block_0/.*'"],
    ),
    "rates do not name the groups": (
        "show c.py --config.rates.hed=0.1",
        ["expected a rate for each group of method 'full' (backbone, head), found hed"],
    ),
    "negative rate": (
        "show c.py --config.rates.head=-1 --config.rates.backbone=1",
        ["config.rates: expected at least 0 for 'head', found -1.0"],
    ),
    "lr beside rates": (
        "show c.py --config.rates.head=1 --config.rates.backbone=1 --config.lr=0.1",
        ["config.lr and config.rates are both set", "remove one"],
    ),
    "options in the place of a number": (
        "show c.py --config.options=3",
        ["expected names with values", "options.NAME"],
    ),
    # fields and types
    "unknown field": ("show c.py --config.stepz=3", ["unknown field config.stepz", "nearest: 'steps'"]),
    "unknown field of another section": (
        "show c.py --config.labels_per_class=3",
        ["unknown field config.labels_per_class", "nearest: 'data.labels_per_class'"],
    ),
    "unknown model field": ("show c.py --config.model.widht=3", ["config.model.widht", "nearest: 'model.width'"]),
    "unknown data field": ("show c.py --config.data.exmaples=3", ["config.data.exmaples", "nearest: 'data.examples'"]),
    "unknown task field": ("show c.py --config.task.smoothing=1", ["config.task.smoothing", "'task.label_smoothing'"]),
    "unknown stage field": (
        "show c.py:stages --config.stage.probe.stepz=3",
        ["unknown field config.stage.probe.stepz", "nearest: 'stage.probe.steps'"],
    ),
    "unknown parallel field": ("show c.py --config.parallel.device=1", ["nearest: 'parallel.devices'"]),
    "empty field": ("show c.py --config.=3", ["unknown field config."]),
    "field of a field": ("show c.py --config.steps.x=3", ["unknown field config.steps.x", "nearest: 'steps'"]),
    "section": ("show c.py --config.model=vit", ["config.model is a section", "config.model.name"]),
    "unicode": ("show c.py --config.größe=3", ["unknown field config.größe"]),
    "text for int": ("show c.py --config.steps=many", ["config.steps: expected int, found 'many'"]),
    "nothing for int": ("show c.py --config.steps=", ["config.steps: expected int, found ''"]),
    "float for int": ("show c.py --config.steps=1e3", ["config.steps: expected int, found 1000.0 (float)"]),
    "none for int": ("show c.py --config.steps=none", ["config.steps: expected int, found 'none'"]),
    "huge int": ("show c.py --config.steps=1" + "0" * 30, ["config.steps: expected an integer of at most 2147483647"]),
    "huge seed": ("show c.py --config.seed=4294967296", ["config.seed: expected an integer of at most 2147483647"]),
    "text for float": ("show c.py --config.lr=fast", ["config.lr: expected float, found 'fast'"]),
    "nothing for float": ("show c.py --config.lr=", ["config.lr: expected float, found ''"]),
    "nan": ("show c.py --config.lr=nan", ["config.lr: expected a finite number, found nan"]),
    "overflowing float": ("show c.py --config.lr=1e999", ["config.lr: expected a finite number, found inf"]),
    "code for a number": ("show c.py --config.lr=__import__('os')", ["config.lr: expected float, found"]),
    "number for bool": ("show c.py --config.test=1", ["config.test: expected bool (true or false), found 1 (int)"]),
    "text for bool": ("show c.py --config.test=maybe", ["config.test: expected bool (true or false), found 'maybe'"]),
    "text in a tuple": (
        "show c.py --config.model.stage_sizes=a,b",
        ["stage_sizes: expected tuple[int, ...], found 'a,b'"],
    ),
    "too short a tuple": (
        "show c.py --config.model.image=8,8",
        ["expected tuple[int, int, int], found 2 values (8, 8)"],
    ),
    # ranges
    "zero steps": ("show c.py --config.steps=0", ["config.steps: expected at least 1, found 0"]),
    "negative steps": ("show c.py --config.steps=-1", ["config.steps: expected at least 1, found -1"]),
    "zero batch": ("show c.py --config.batch_size=0", ["config.batch_size: expected at least 1, found 0"]),
    "negative lr": ("show c.py --config.lr=-0.1", ["config.lr: expected at least 0, found -0.1"]),
    "warm-up longer than the stage": ("show c.py --config.warmup=3", ["warmup: expected at most the 2 steps, found 3"]),
    "momentum 1": ("show c.py --config.momentum=1", ["config.momentum: expected less than 1, found 1.0"]),
    "negative clip": ("show c.py --config.clip=-1", ["config.clip: expected at least 0, found -1.0"]),
    "label smoothing 1": (
        "show c.py --config.task.label_smoothing=1",
        ["config.task.label_smoothing: expected at least 0 and less than 1, found 1.0"],
    ),
    "unknown schedule": ("show c.py --config.schedule=cos", ["expected one of constant, linear, cosine, polynomial, "]),
    "unknown optimizer": ("show c.py --config.optimizer=adamx", ["expected one of adamw, adam, sgd, ", "'adamx'"]),
    "an option of another schedule": (
        "show c.py --config.schedule=wsd --config.schedule_options=(('power',2.0),)",
        ["config.schedule_options: schedule 'wsd' has no option 'power'", "tail"],
    ),
    "an option of a schedule without any": (
        "show c.py --config.schedule_options=(('power',2.0),)",
        ["config.schedule_options: schedule 'cosine' has no option 'power'"],
    ),
    "an option of a schedule out of range": (
        "show c.py --config.schedule=wsd --config.schedule_options=(('tail',2.0),)",
        ["config.schedule_options: expected tail from 0.001 to 0.999, found 2.0"],
    ),
    "an option of a schedule twice": (
        "show c.py --config.schedule=wsd --config.schedule_options=(('tail',0.1),('tail',0.2))",
        ["config.schedule_options: expected each name once"],
    ),
    "a warm-up before a rise": (
        "show c.py --config.schedule=one_cycle --config.warmup=1",
        ["config.warmup: one_cycle has a rise of its own, found 1; set it to 0"],
    ),
    "a floor above the rate": ("show c.py --config.min_lr=1.0", ["config.min_lr: expected less than 1, found 1.0"]),
    "masked words of images": (
        "show c.py --config.task.name=masked_lm",
        [
            "task 'masked_lm' needs a model with the head 'vocab', model 'resnet' has pooled",
            "choose another task or model",
        ],
    ),
    "share of masked words": (
        "show c.py --config.task.name=masked_lm --config.task.rate=1.5",
        ["config.task.rate: expected a share above 0, at most 1, found 1.5", "0.15 is BERT's"],
    ),
    "unknown head": (
        "show c.py --config.head=new",
        ["config.head: expected one of auto, keep, reset, prompts, found 'new'"],
    ),
    "unknown select": ("show c.py --config.select=max", ["config.select: expected one of last, best, found 'max'"]),
    "unknown mode": (
        "show c.py --config.parallel.mode=tpu",
        ["parallel.mode: expected one of jit, fsdp, tensor, pmap, found 'tpu'"],
    ),
    "unknown type": (
        "show c.py --config.compute_dtype=float16",
        ["expected one of float32, bfloat16, found 'float16'"],
    ),
    "unknown type in a rule": (
        "show c.py --config.dtype_rules=(('head','fp8'),)",
        ["config.dtype_rules: expected one of float32, bfloat16 for 'head', found 'fp8'"],
    ),
    "types of no unit": (
        "show c.py --config.dtype_rules=(('blok_0','bfloat16'),)",
        ["config.dtype_rules pattern 'blok_0' matches no parameter", "nearest: 'block_0'"],
    ),
    "recomputation of no unit": ("show c.py --config.remat=blok_0", ["config.remat pattern 'blok_0' matches no"]),
    "slices that do not divide the batch": (
        "show c.py --config.accumulate=3",
        ["config.accumulate: expected a number that divides batch_size, found 3 for a batch of 4"],
    ),
    # models and tasks
    "tags from a model of images": (
        "show c.py --config.task.name=tagging",
        ["task 'tagging' needs a model with", "model 'resnet' has pooled and dense and embedding; choose another"],
    ),
    "masks from data without": (
        "show c.py --config.task.name=segmentation",
        ["task 'segmentation' learns 'mask', data source 'synthetic' has image and class; choose another of the two"],
    ),
    "unknown model": ("show c.py --config.model.name=resnett", ["unknown model 'resnett'", "nearest: 'resnet'"]),
    "unknown task": ("show c.py --config.task.name=regresion", ["unknown task 'regresion'", "nearest: 'regression'"]),
    "width 0": ("show c.py --config.model.width=0", ["width must be a positive integer, found 0"]),
    "width beyond any machine": (
        "show c.py --config.model.width=2000000000",
        ["would have shape (3, 3, 2000000000, 2000000000)", "smaller"],
    ),
    "patch that does not divide": ("show c.py:vit --config.model.patch=3", ["patch must divide", "found patch=3"]),
    "regression on classes": (
        "show c.py --config.task.name=regression",
        ["needs real targets, the data has 4 classes", "use --config.task.name=classification"],
    ),
    "classification of real targets": (
        "show c.py --config.data.target=value",
        ["needs at least 2 classes, the data has 0", "use --config.task.name=regression"],
    ),
    # data
    "unknown source": ("show c.py --config.data.source=sythetic", ["unknown data source 'sythetic'", "'synthetic'"]),
    "unknown augmentation": ("show c.py --config.data.augment=flipp", ["unknown augmentation 'flipp'", "'flip'"]),
    "option of an augmentation": (
        "show c.py --config.data.augment=flip,randaugment(ops=2,magnitud=9)",
        ["data.augment: randaugment has no option 'magnitud'", "'magnitude'"],
    ),
    "options of an augmentation without their names": (
        "show c.py --config.data.augment=randaugment(2,9)",
        ["data.augment: expected NAME or NAME(OPTION=VALUE, ...)", "found 'randaugment(2,9)'"],
    ),
    "unknown class": (
        "show c.py --config.data.classes=class_9",
        ["unknown class 'class_9' in data.classes", "'class_3'"],
    ),
    "too few labels": (
        "show c.py --config.data.labels_per_class=99",
        ["class 'class_0' has 10 training examples", "data.labels_per_class=99", "lower it to 10"],
    ),
    "two numbers of labels": (
        "show c.py --config.data.labels=9 --config.data.labels_per_class=2",
        ["expected one number of labels", "data.labels=9 and data.labels_per_class=2", "set one of the two to 0"],
    ),
    "more labels than examples": (
        "show c.py --config.data.labels=99",
        ["the data has 40 training examples besides validation", "data.labels=99", "lower it to 40"],
    ),
    "labels that leave a class out": (
        "show c.py --config.data.labels=1",
        ["data.labels=1 draws no example of class", "under seed 0", "raise it", "data.labels_per_class"],
    ),
    "labels that no stage reads": (
        "show c.py --config.task.name=unlabelled --config.method=simclr --config.stream.view.rows=same "
        "--config.data.labels=30",
        ["data.labels=30 has no effect: task 'unlabelled' reads no labels", "set it to 0"],
    ),
    "no path": ("show c.py --config.data.source=npz", ["data source 'npz' needs a path", "set data.path"]),
    "absent npz": (f"show c.py {NPZ}data/absent.npz", ["data.path does not exist", "'data/absent.npz'", "correct it"]),
    "absent folder": (f"show c.py {FOLDER}data/absent", ["data.path does not exist", "'data/absent'", "correct it"]),
    "npz that is none": (f"show c.py {NPZ}data/text.npz", ["expected an .npz", "'data/text.npz'", "use np.savez"]),
    "label out of range": (
        f"show c.py {NPZ}data/label.npz",
        ["expected the labels of train, found 6 in val", "add some"],
    ),
    "float labels": (
        f"show c.py {NPZ}data/float.npz",
        ["expected integer labels of train", "found float64", "data.target"],
    ),
    "float images": (f"show c.py {NPZ}data/scaled.npz", ["to be uint8, found float64", "scale it to 0..255"]),
    "unreadable image": (
        f"show c.py {FOLDER}data/unreadable",
        ["expected a readable image", "a/0.png", "replace or remove"],
    ),
    "empty class": (f"show c.py {FOLDER}data/empty", ["expected images", "'data/empty/b', found none", "remove it"]),
    "file for a folder": (f"show c.py {FOLDER}file", ["expected a folder of class folders, found the file 'file'"]),
    # stages
    "override of a stage that is not there": (
        "show c.py:stages --config.stage.prob.steps=3",
        ["config.stage.prob: no such stage", "nearest: 'probe'"],
    ),
    "override that changes nothing": (
        "show c.py:stages --config.steps=3",
        ["config.steps has no effect: every stage sets its own", "use config.stage.NAME.steps"],
    ),
    "option that no stage takes": (
        "show c.py:stages --config.options.rank=3",
        ["config.options.rank has no effect", "use config.stage.NAME.options.rank"],
    ),
    "stage called like another method": (
        "show c.py --config.stages=probe",
        ["stage 'probe' has the name of one method but runs 'full'", "set config.stage.probe.method=probe"],
    ),
    "stage with settings left out": (
        "show c.py:stages --config.stages=full",
        ["config.stage.probe: no such stage in config.stages=('full',)", "add it there"],
    ),
    "a stage twice": ("show c.py --config.stages=a,a", ["expected distinct names", "found ('a', 'a')"]),
    "stage with a slash": ("show c.py --config.stages=a/b", ["names of letters, digits, _ and -", "found ('a/b',)"]),
    # the command line and the config file
    "no command": ("", ["required: COMMAND", "see `jaxfer --help`"]),
    "unknown command": ("trian c.py", ["invalid choice: 'trian'", "'run', 'show'", "see `jaxfer --help`"]),
    "no config": ("run", ["required: config", "see `jaxfer run --help`"]),
    "unknown argument": ("show c.py --steps=3", ["unknown argument '--steps=3'", "--config.field=value"]),
    "missing =": ("show c.py --config.steps 3", ["expected --config.steps=VALUE"]),
    "a field twice": ("show c.py --config.steps=3 --config.steps=4", ["--config.steps is given twice"]),
    "absent config": ("show cc.py", ["expected a config file", "'cc.py' does not exist", "nearest: 'c.py'"]),
    "folder for a config": ("show data", ["expected a config file FILE.py[:ARG]", "'data' is a folder"]),
    "data for a config": ("show data/text.npz", ["expected a config file FILE.py[:ARG]", "is not a Python file"]),
    "absent config of a run": (
        "show gone/config.json",
        ["gone/config.json: expected a run's config", "name the config.json"],
    ),
    "nothing for a config": ("show ''", ["expected a config file FILE.py[:ARG]"]),
    "unknown word of a config": ("show c.py:lroa", ["unknown config argument 'lroa'", "nearest: 'lora'"]),
    # where it runs
    "batch not divisible": (
        f"run c.py {NEW} --config.batch_size=6 --config.parallel.devices=4",
        ["config.batch_size: 6 examples can't be split over 4 devices", "use 4 or --config.parallel.devices=1"],
    ),
    "slices too small for the devices": (
        f"run c.py {NEW} --config.accumulate=4 --config.parallel.devices=4",
        ["config.batch_size: 4 examples can't be split over 4 devices in 4 slices", "use 16 or"],
    ),
    "more parts than devices": (
        "show c.py --config.parallel.fsdp=4 --config.parallel.tensor=2",
        ["config.parallel.fsdp=4 x tensor=2: expected at most the 4 here, found 8"],
    ),
    "devices that are no mesh": (
        "show c.py --config.parallel.fsdp=2 --config.parallel.devices=3",
        ["config.parallel.devices: 3 can't form a mesh with fsdp=2 x tensor=1", "use a multiple of 2"],
    ),
    "fsdp twice": (
        "show c.py --config.parallel.mode=fsdp --config.parallel.fsdp=2",
        ["mode=fsdp gives fsdp the remaining devices, found fsdp=2 too", "set only one of them"],
    ),
    "pmap of parts": (
        "show c.py --config.parallel.mode=pmap --config.parallel.tensor=2",
        ["mode=pmap keeps all parameters on each device, found fsdp=1, tensor=2", "use mode=jit"],
    ),
    "sharding rule of another word": (
        "show c.py --config.parallel.rules=(('.*/kernel','data'),)",
        ["config.parallel.rules: expected for '.*/kernel' one word per axis", "found 'data'", "write e.g. 'fsdp -'"],
    ),
    "sharding rule of no parameter": (
        "show c.py --config.parallel.rules=(('blok_0/.*','fsdp'),)",
        ["config.parallel rule 'blok_0/.*' matches no parameter", "nearest: 'block_0/.*'"],
    ),
    "sharding rule with too few words": (
        "show c.py --config.parallel.rules=(('head/out/kernel','fsdp'),)",
        ["head/out/kernel has shape (8, 4); its rule has 1 words, write 2"],
    ),
    "sharding rule that does not divide": (
        "show c.py --config.batch_size=3 --config.parallel.fsdp=3 --config.parallel.rules=(('head/out/bias','fsdp'),)",
        ["axis 0 of head/out/bias (4,) can't be split over fsdp=3", "use a number that divides it"],
    ),
    "too many devices": (f"run c.py {NEW} --config.parallel.devices=5", ["expected at most the 4 here, found 5"]),
    "empty workdir": ("run c.py --workdir=", ["--workdir: expected a folder, found ''", "omit --workdir"]),
    "workdir is a file": ("run c.py --workdir=file", ["found the file file", "use another --workdir"]),
    "workdir below a file": ("run c.py --workdir=file/new", ["'file/new'", "correct the path"]),
    "workdir of another config": (
        f"run c.py {DONE} --config.lr=0.5 --config.model.width=8",
        [
            "runs/done holds a run of another config",
            "model.width: 4 there, 8 here",
            "lr: 0.001 there, 0.5 here",
            "another",
        ],
    ),
    "fewer steps than done": (f"run c.py {DONE} --config.steps=1", ["trained for 2 steps already, the config says 1"]),
    "workdir too long": (
        f"run c.py --workdir={'x/' * 5000}",
        ["not a valid path on this machine", "name another folder"],
    ),
    "data of nobody's home": (
        f"run c.py {NEW} {NPZ}~nosuchuser/x.npz",
        ["data.path='~nosuchuser/x.npz'", "write the full path"],
    ),
    "export to an address": ("export runs/done --out=http://b/x", ["http://b/x: expected a folder, gs:// or s3://"]),
    "prediction by an address": ("predict https://x/y file", ["https://x/y: expected a folder, gs:// or s3://"]),
    # where it starts
    "unknown init": (
        f"run c.py {NEW} --config.init=hub:x",
        ["config.init: expected scratch, run:FOLDER or sibling:NAME, found 'hub:x'"],
    ),
    "init of an address": (
        f"run c.py {NEW} --config.init=file:///etc/passwd",
        [
            "file:///etc/passwd: expected a folder, a file or a Hub name, found an address",
            "download it and give the file",
        ],
    ),
    "init of a page of the Hub": (
        f"run c.py {NEW} --config.init=https://huggingface.co/google/vit-base-patch16-224",
        ["give its name, google/vit-base-patch16-224"],
    ),
    "tags from a model that pools": (
        f"run c.py {NEW} --config.task.name=tagging",
        [
            "task 'tagging' needs a model with the head 'token', model 'resnet' has pooled",
            "choose another task or model",
        ],
    ),
    "unknown add-on": (f"run c.py {NEW} --config.adds=emma", ["unknown add-on 'emma'", "nearest: 'ema'"]),
    "adapters in a network without transformer blocks": (
        f"run c.py {NEW} --config.method=adapter",
        ["adapter: the model has no transformer blocks to put adapters into", "use lora"],
    ),
    "slices of a loss of whole batches": (
        f"run c.py {NEW} --config.method=bss --config.accumulate=2",
        ["config.accumulate: the loss of method 'bss' is of the batch as a whole, found 2 slices", "set it to 1"],
    ),
    "init of nothing": (f"run c.py {NEW} --config.init=run:runs/no", ["no run at runs/no", "train it first"]),
    "sibling that is not there": (f"run c.py {NEW} --config.init=sibling:no", ["no run at runs/no", "train it first"]),
    "init of an unfinished run": (
        f"run c.py {NEW} --config.init=sibling:unfinished",
        ["the run at runs/unfinished is not finished", "again to finish it"],
    ),
    "init of another width": (
        f"run c.py {NEW} --config.init=sibling:done --config.model.width=3",
        ["the source's model is different (width is 4 there, 3 here)", "leave these out of config.model"],
    ),
    "init of another width, announced": (
        f"run c.py {NEW} --config.init=sibling:done --config.model.width=3 --config.differs=width",
        ["is (3, 3, 3, 3) here, (3, 3, 4, 4) there", "config.model must match the source's"],
    ),
    "init of other preprocessing": (
        f"run c.py {NEW} --config.init=sibling:done --config.model.mean=0.3",
        ["mean is () there, (0.3,) here", "announce what may differ in config.differs"],
    ),
    "announced difference in no option": (
        f"run c.py {NEW} --config.init=sibling:done --config.differs=imag",
        ["config.differs: model 'resnet' has no option 'imag'", "nearest: 'image'"],
    ),
    "same names, other data": (
        f"run c.py {NEW} --config.init=sibling:done --config.data.noise=0.5",
        ["other data whose classes have the same names", "set config.head=keep, else reset"],
    ),
    "init of another family": (
        f"run c.py:vit {NEW} --config.init=sibling:done",
        ["the source's model is 'resnet', found config.model.name=vit", "set config.model.name=resnet"],
    ),
    "kept head of other classes": (
        f"run c.py {NEW} --config.init=sibling:done --config.head=keep --config.data.classes_count=3",
        ["params/head/out/bias is (3,) here, (4,) there"],
    ),
    # doctor
    "doctor of a negative number of examples": (
        "doctor c.py --examples=-1",
        ["--examples: expected a number of examples of a split, found -1", "0 looks at all"],
    ),
    "doctor of a config that no run would take": (
        "doctor c.py --config.warmup=3",
        ["config.warmup: expected at most the 2 steps, found 3"],
    ),
    # evaluation
    "eval of no run": ("eval runs/no", ["no run at runs/no", "expected a folder that `jaxfer run` wrote"]),
    "eval of a file": ("eval file", ["no run at file"]),
    "eval of an unfinished run": ("eval runs/unfinished", ["runs/unfinished is not finished", "again to finish it"]),
    "eval on other classes": (
        "eval runs/done --config.data.classes_count=3",
        [
            "the run's classes are class_0, class_1, class_2, class_3",
            "this data's are class_0",
            "--config.data.classes",
        ],
    ),
    "eval of an unknown split": (
        "eval runs/done --split=tst",
        ["split 'tst' is not in this data", "it has train, val"],
    ),
    "eval of an unknown checkpoint": ("eval runs/done --checkpoint=first", ["'first'", "known: result, last, best"]),
    "eval with another rate": (
        "eval runs/done --config.lr=1",
        ["part of the trained run", "what may be set is data.*"],
    ),
    "eval on no images": (f"eval runs/done {NPZ}data/absent.npz", ["data.path does not exist"]),
    # features
    "features without a file": ("features runs/done", ["arguments are required: --out", "jaxfer features --help"]),
    "features into a folder": ("features runs/done --out=runs", ["--out: runs is a folder", "runs/features.npz"]),
    "features into data": (
        "features runs/done --out=data/label.npz",
        ["--out: data/label.npz exists and holds no features", "name another file"],
    ),
    "features into a file of another kind": (
        "features runs/done --out=f.csv",
        ["--out: expected a file that ends with .npz, found 'f.csv'"],
    ),
    "features into nothing": ("features runs/done --out=", ["--out: expected a file that ends with .npz, found ''"]),
    "features of no run": ("features runs/no --out=f.npz", ["no run at runs/no", "or a checkpoint and the data"]),
    "features of an unknown unit": (
        "features runs/done --out=f.npz --unit=blok_1",
        ["--unit: the model has no unit 'blok_1'", "nearest: 'block_1', 'block_0'"],
    ),
    "features pooled otherwise": (
        "features runs/done --out=f.npz --unit=block_1 --pool=max",
        ["--pool: expected mean, found 'max'; or leave it out"],
    ),
    "features that are vectors, pooled": (
        "features runs/done --out=f.npz --pool=mean",
        ["--pool=mean: unit 'features' gives one vector of 8 already", "leave it out"],
    ),
    "features of an unknown split": (
        "features runs/done --out=f.npz --split=tst",
        ["split 'tst' is not in this data", "it has train, val"],
    ),
    "features of other data": (
        f"features runs/done --out=f.npz {FOLDER}data/empty",
        ["expected images", "in 'data/empty/b', found none", "add some or remove it"],
    ),
    "features of no data": (
        f"features runs/done --out=f.npz --split=train {NPZ}data/none.npz",
        ["expected train_image to be", "found [0, 8, 8, 3]"],
    ),
    "features of a checkpoint's training": (
        f"features net --out=f.npz {NPZ}data/label.npz --config.lr=1",
        ["config.lr: nothing is trained here", "a checkpoint takes data.*"],
    ),
}

# {case: (a line of get_config, fragments)}
LINES = {
    "file sets an unknown field": ("config.stepz = 3", ["unknown field 'stepz'", "nearest: 'steps'", "(line 19)"]),
    "file sets a wrong type": ("config.steps = 'x'", ["field 'steps': expected int, found x (str)", "(line 19)"]),
    "file sets a bare string": ("config.freeze = 'stem/.*'", ["field 'freeze': expected tuple, found stem/.* (str)"]),
    "file sets a section to text": ("config.model = 'vit'", ["field 'model': expected dict, found vit (str)"]),
    "file sets a section to None": (
        "config.model = None",
        ["config.model: expected its fields as dict(...), found None"],
    ),
    "file sets a stage to text": (
        "config.stages = ('a',); config.stage.a = 'probe'",
        ["config.stage.a: expected its fields as dict(...), found 'probe'"],
    ),
    "file asks a text model for masks": (
        'config.model = dict(name="bert"); config.task.name = "segmentation"',
        ["task 'segmentation' needs a model with", "model 'bert' has pooled", "choose another task or model"],
    ),
    "file leaves out the model": (
        "config.model = dict(width=3)",
        ["config.model.name: expected one of a", "bert, ", "resnet, ", "vit", "found nothing"],
    ),
    "file sets an unknown model field": ("config.model.widht = 3", ["config.model.widht", "nearest: 'width'"]),
    "file sets a wrong option": (
        "config.method = 'lora'; config.options.rank = '4'",
        ["rank: expected int, found '4'"],
    ),
    "file sets a number as text": ("config.method = 'l2sp'; config.options.alpha = '1'", ["expected float, found '1'"]),
    "file sets nan": ("config.lr = float('nan')", ["config.lr: expected a finite number, found nan"]),
    "file sets a stage it lacks": ("config.stage.a = dict(steps=3)", ["config.stage.a: no such stage", "add it there"]),
    "file raises": ("config.lr = 1 / 0", ["failed: ZeroDivisionError: division by zero (line 19)"]),
    "file imports what is not there": ("import absent", ["No module named 'absent' (line 19)"]),
    "file returns no config": ("return {}", ["get_config must return a ConfigDict", "jaxfer.config.base()"]),
}

# {case: (a config file, fragments)}
FILES = {
    "syntax error": ("def get_config(:", ["cannot be read as a config file", "SyntaxError", "line 1"]),
    "no get_config": ("x = 1", ["expected a function get_config(arg=''), found none"]),
    "error of several lines": ("x = 1\nraise ValueError('a\\nb')", ["ValueError: a (line 2)"]),
    "exit at import": ("import sys\nsys.exit()", ["cannot be read as a config file: SystemExit (line 2)"]),
    "exit with a message at import": ("raise SystemExit('no GPU')", ["config file: SystemExit: no GPU (line 1)"]),
    "exit in get_config": (
        "def get_config(arg=''):\n    raise SystemExit(0)",
        ["get_config('') failed: SystemExit: 0 (line 2)"],
    ),
    "what no except clause of Exception catches": ("raise BaseException('x')", ["BaseException: x (line 1)"]),
    "error that can't be printed": (
        "class E(Exception):\n    def __str__(self):\n        raise RuntimeError\nraise E",
        ["E: its message can't be read (line 4)"],
    ),
    "async get_config": ("async def get_config(arg=''):\n    return 1", ["get_config is async", "without async"]),
    "get_config is a number": ("get_config = 3", ["expected a function get_config, found 3"]),
    "null bytes": ("\0", ["cannot be read as a config file", "null bytes"]),
}
