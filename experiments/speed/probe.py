"""A linear probe of 10 epochs, end to end: jaxfer with features computed once, without, and a PyTorch loop.

    JAXFER_DATA=... python experiments/speed/probe.py --repeats 7
    JAXFER_DATA=... python experiments/speed/probe.py --repeats 7 --only once grid       # 32 probes beside one
    jaxfer sweep experiments/speed/probe.py                                              # these 32

MobileNetV1 0.75 on 800 training and 200 validation photographs of `vision/flowers5`; every measurement is a process of
its own from its start to its end, and they take turns: `once` begins with no features, `again` reads those of `once`,
`grid` is 8 rates under 4 seeds and begins with no features either, `anew` is `--config.cache=off`, `pytorch` runs the
backbone of transformers under `torch.no_grad` every epoch, on batches of a `DataLoader` with two worker processes.
Compiled programs are not kept. `pytorch` needs the extra `parity`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from jaxfer.data.lookup import locate

EPOCHS, BATCH, RATE = 10, 16, 1e-2
ROWS = ("once", "again", "grid", "anew", "pytorch")
CONFIG = Path(__file__).parents[2] / "configs" / "flowers5.py"


def pytorch() -> None:
    """The same probe as most people write it; prints its accuracy on the photographs kept for validation."""
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

    def batches(rows, shuffle):
        return torch.utils.data.DataLoader(Photographs(rows), BATCH, shuffle=shuffle, num_workers=2)

    backbone = MobileNetV1Model.from_pretrained(weights).eval()
    head = torch.nn.Linear(768, len(names))
    optimizer = torch.optim.AdamW(head.parameters(), RATE)
    for _ in range(EPOCHS):
        for images, labels in batches(order[held:], True):
            with torch.no_grad():
                features = backbone(images).pooler_output
            loss = torch.nn.functional.cross_entropy(head(features), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        hits = [(head(backbone(x).pooler_output).argmax(-1) == y).float() for x, y in batches(order[:held], False)]
    print(f"accuracy {torch.cat(hits).mean():.3f}")


def get_config(arg: str = ""):
    """The probe."""
    import jaxfer

    steps = EPOCHS * 800 // BATCH
    fields = dict(steps=steps, batch_size=BATCH, lr=RATE, eval_every=0, save_every=0, select="last")
    return jaxfer.load(f"{CONFIG}:probe", {**fields, "data.val_fraction": 0.2})


def sweep():
    """8 rates under 4 seeds."""
    for rate in (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1):
        for seed in range(4):
            yield {"lr": rate, "seed": seed}


def command(verb: str, folder: Path, *overrides: str) -> list[str]:
    return ["-m", "jaxfer", verb, __file__, *overrides, "--nocache", "--workdir", str(folder)]


def timed(command: list[str], environment: dict[str, str]) -> float:
    """Seconds of a process."""
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, *command], env={**os.environ, **environment}, stdout=subprocess.DEVNULL)
    if done.returncode:
        sys.exit(done.returncode)
    return time.perf_counter() - begun


def main(argv: list[str] | None = None) -> None:
    """Prints a table in Markdown: medians of seconds, and of the ratios to PyTorch in the same round."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only", nargs="+", choices=ROWS, default=ROWS, help="these rows (default: all)")
    parser.add_argument("--pytorch", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.pytorch:
        pytorch()
        return
    seconds: dict[str, list[float]] = {row: [] for row in ROWS if row in options.only}
    for _ in range(options.repeats):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            cached, other = ({"JAXFER_CACHE": str(folder / cache)} for cache in ("cache", "other"))
            calls = {
                "once": (command("run", folder / "once"), cached),
                "again": (command("run", folder / "again"), cached),
                "grid": (command("sweep", folder / "grid"), other),
                "anew": (command("run", folder / "anew", "--config.cache=off"), cached),
                "pytorch": ([__file__, "--pytorch"], {}),
            }
            for row, found in seconds.items():
                found.append(timed(*calls[row]))
    last = list(seconds)[-1]  # PyTorch, or what is compared in its place
    print(f"| | seconds | {last} / this, by round | lowest | highest |\n| --- | ---: | ---: | ---: | ---: |")
    for row, found in seconds.items():
        ratios = [theirs / ours for theirs, ours in zip(seconds[last], found, strict=True)]
        spread = f"{statistics.median(ratios):.2f} | {min(ratios):.2f} | {max(ratios):.2f}"
        print(f"| {row} | {statistics.median(found):.1f} | {spread} |")


if __name__ == "__main__":
    main()
