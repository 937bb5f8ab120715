"""What each parameter-efficient method costs on ViT-B/16 and BERT-base: writes the table in README.md, here.

    python experiments/methods/cost.py --measure     # about 25 minutes; goes on where it was stopped
    python experiments/methods/cost.py               # the table alone

From shapes alone: a step of 32 examples (images of 224 x 224; 128 tokens) under AdamW with 10 classes, the operations
as XLA counts them before it compiles; nothing is allocated. With `--measure` also, for a step of 2 images or of 4 texts
of 64 tokens that is compiled for this machine: the bytes that it holds at once (arguments, results and temporaries, as
XLA says), and its seconds beside those of `full` in the same process, turn by turn: the median of 7 paired ratios.
Leave the machine idle.
"""

from __future__ import annotations

import csv
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

import jaxfer.config
from jaxfer.config import resolve
from jaxfer.config.experiment import ParallelConfig
from jaxfer.conformance.training import batches
from jaxfer.errors import InputError
from jaxfer.parallel.placement import placement
from jaxfer.ports import compiled_port_init, make_port
from jaxfer.registry import METHODS as KNOWN
from jaxfer.stages import Stage, make_stages
from jaxfer.training.programs import train_program
from jaxfer.training.summary import StageSummary, summary

CSV = Path(__file__).with_suffix(".csv")
FIELDS = ("model", "method", "peak_bytes", "full_ms", "ms", "ratio")
ROUNDS = 7
README = Path(__file__).with_name("README.md")
BEGIN, END = "<!-- table -->", "<!-- end -->"
MODELS = {"ViT-B/16": {"name": "vit", "image": (224, 224, 3)}, "BERT-base": {"name": "bert", "max_length": 128}}
TOKENIZER = Path(__file__).parents[2] / "tests" / "data" / "tokenizer"
QUERY_VALUE = (".*/attn/(query|value)/kernel",)
METHODS = {
    "full": {},
    "probe": {},
    "lora": {"rank": 8, "targets": QUERY_VALUE},
    "lora, every kernel": {"rank": 8},
    "lora, rank-stabilised": {"rank": 8, "targets": QUERY_VALUE, "scaling": "rank_stabilised"},
    "lora, plus": {"rank": 8, "targets": QUERY_VALUE, "b_rate": 16.0},
    "lora, pissa": {"rank": 8, "targets": QUERY_VALUE, "start": "pissa"},
    "lora, olora": {"rank": 8, "targets": QUERY_VALUE, "start": "olora"},
    "dora": {"rank": 8, "targets": QUERY_VALUE},
    "vera": {"targets": QUERY_VALUE},
    "loha": {"rank": 8, "targets": QUERY_VALUE},
    "lokr": {"rank": 8, "targets": QUERY_VALUE},
    "oft": {"targets": QUERY_VALUE},
    "ia3": {},
    "bitfit": {},
    "norm_tuning": {},
    "ssf": {},
    "adapter": {"kind": "houlsby", "bottleneck": 48},
    "adapter, pfeiffer": {"kind": "pfeiffer", "bottleneck": 48},
    "adapter, parallel": {"kind": "parallel", "bottleneck": 48},
    "adapter, adaptformer": {"kind": "adaptformer", "bottleneck": 48},
    "side_tuning": {},
    "film": {},
    "vpt": {"tokens": 10},
    "vpt, shallow": {"tokens": 10, "deep": False},
    "prompt_tuning": {"tokens": 20},
    "prefix_tuning": {"tokens": 20},
}


# What a step of two cores bears.
SMALL = {"ViT-B/16": (2, {}), "BERT-base": (4, {"max_length": 64})}


def stage_of(model: str, label: str, options: dict, batch_size: int = 32, **fields: int) -> Stage:
    """Raises `InputError` where the method does not apply to the model."""
    config = jaxfer.config.base()
    config.model = dict(MODELS[model], **fields)
    if model == "BERT-base":
        config.model.tokenizer = str(TOKENIZER)
        config.model.vocab = 30522
    config.update(method=label.split(",")[0], options=options, batch_size=batch_size, steps=10)
    experiment = resolve(config)
    (stage,) = make_stages(experiment, *make_port(experiment, 10))
    return stage


def planned(model: str, label: str, options: dict) -> StageSummary:
    return summary(stage_of(model, label, options), placement(ParallelConfig(devices=1)))


def stepping(stage: Stage) -> tuple[Callable[[], float], int]:
    """(a function that takes a step and gives its seconds, the bytes that a step holds)."""
    where = placement(ParallelConfig(devices=1), [stage.config.batch_size])
    port, (batch,) = stage.spec.port, batches(stage, 1)
    zeros = {name: np.zeros(s.shape, s.dtype) for name, s in port.example(1).items()}
    state = where.place(stage.spec, stage.enter(*compiled_port_init(port)(jax.random.key(0), zeros), 0))
    program, _ = train_program(stage.spec, state, stage.example(), where)
    (batch,) = where.feed([batch], train=True)

    def step() -> float:
        nonlocal state
        begun = time.perf_counter()
        state, metrics = program.call(state, batch)
        jax.block_until_ready((state, metrics))
        return time.perf_counter() - begun

    step()  # the first warms up
    return step, program.peak_bytes


def known() -> dict[tuple[str, str], dict[str, str]]:
    """{(model, label): its line of cost.csv}."""
    if not CSV.exists():
        return {}
    with open(CSV, newline="") as file:
        return {(line["model"], line["method"]): line for line in csv.DictReader(file)}


def measure(only: list[str]) -> None:
    """Appends to cost.csv what it does not have; of these labels alone where there are some."""
    for model in MODELS:
        size, fields = SMALL[model]
        plain = None
        for label, options in METHODS.items():
            if (model, label) in known() or only and label not in only or label.split(",")[0] not in KNOWN.names():
                continue
            try:
                stage = stage_of(model, label, options, size, **fields)
            except InputError:
                continue
            plain = plain or stepping(stage_of(model, "full", {}, size, **fields))
            step, peak = plain if label == "full" else stepping(stage)
            pairs = [(plain[0](), step()) if turn % 2 else (step(), plain[0]())[::-1] for turn in range(ROUNDS)]
            ratio = 1.0 if label == "full" else statistics.median(own / full for full, own in pairs)
            full, own = (1e3 * statistics.median(column) for column in zip(*pairs, strict=True))
            new = not CSV.exists()
            with open(CSV, "a", newline="") as file:
                rows = csv.writer(file, lineterminator="\n")
                rows.writerows([FIELDS] if new else [])
                rows.writerow((model, label, peak, f"{full:.1f}", f"{own:.1f}", f"{ratio:.4f}"))
            print(f"{model}, {label}: {peak / 2**20:,.0f} MiB, {ratio:.2f} of the seconds of full", flush=True)


def row(model: str, label: str, options: dict, measured: dict[tuple[str, str], dict[str, str]]) -> str:
    try:
        found = planned(model, label, options)
    except InputError as error:
        return f"| `{label}` | {model} | - | - | - | {str(error).split(': ')[-1].split(';')[0]} | - | - |"
    line = measured.get((model, label))
    held, taken = (f"{int(line['peak_bytes']) / 2**20:,.0f}", f"{float(line['ratio']):.2f}") if line else ("-", "-")
    trained = found.params_trainable / 1e6
    ratio = found.step_flops / found.forward_flops
    return (
        f"| `{label}` | {model} | {trained:.3f} | {100 * found.params_trainable / found.params_total:.2f} | "
        f"{found.optimizer_bytes / 2**20:.1f} | {found.step_flops / 1e9:,.0f} ({ratio:.2f} x forward) | "
        f"{held} | {taken} |"
    )


def main() -> None:
    if sys.argv[1:2] == ["--measure"]:
        measure(sys.argv[2:])
    head = [
        "| method | model | trained, millions | % | optimizer, MiB | operations of a step, 10^9 | small step: peak MiB "
        "| its seconds, of `full`'s |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    rows, measured = [], known()
    for model in MODELS:
        for label, options in METHODS.items():
            if label.split(",")[0] in KNOWN.names():
                rows.append(row(model, label, options, measured))
                print(rows[-1], flush=True)
    text = README.read_text()
    before, rest = text.split(BEGIN, 1)
    README.write_text(before + "\n".join([BEGIN, *head, *rows, END]) + rest.split(END, 1)[1])


if __name__ == "__main__":
    main()
