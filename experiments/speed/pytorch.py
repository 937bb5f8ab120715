"""Training steps and forward passes beside PyTorch, transformers and peft on the same CPU, in turn.

    python experiments/speed/pytorch.py                                       # all rows, about 15 minutes
    python experiments/speed/pytorch.py --rows "ViT-S/16" --repeats 21
    python experiments/speed/pytorch.py --rows "BERT-base start" --repeats 7

float32, no dropout, random weights; AdamW on every trainable leaf, fused on PyTorch's side; batches of 8, texts of 128
tokens without padding, images of 224 pixels. Each side has a process of its own and waits while the other works: a
repeat is some calls of one, then as many of the other. The table has the medians of the paired ratios, theirs through
ours (above 1: jaxfer is faster), and the lowest and highest. Leave the machine idle. Needs the extra `parity`.

A start is a process from its beginning to the end of its first step: imports, random weights, compiling. `BERT-base
start, again` reads compiled programs that an earlier start has kept, as commands do.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

BATCH, CLASSES = 8, 5
IMAGES = dict(source="synthetic", image=(224, 224, 3))
BERT = dict(name="bert", max_length=128, buckets=(128,))
VIT_S = dict(name="vit", width=384, heads=6, mlp_width=1536)
RESNET = dict(name="resnet", stage_sizes=(3, 4, 6, 3), block="bottleneck")
MOBILENET = dict(name="mobilenet_v1", depth_multiplier=0.75)

# Row: (jaxfer's model, its data, method and options, what is timed).
ROWS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], str]] = {
    "BERT-base step": (BERT, dict(source="table"), {}, "step"),
    "ViT-S/16 step": (VIT_S, IMAGES, {}, "step"),
    "ResNet-50 step": (RESNET, IMAGES, {}, "step"),
    "MobileNetV1 0.75 step": (MOBILENET, IMAGES, {}, "step"),
    "BERT-base LoRA step": (BERT, dict(source="table"), dict(method="lora"), "step"),
    "BERT-base start": (BERT, dict(source="table"), {}, "start"),
    "BERT-base start, again": (BERT, dict(source="table"), {}, "start"),
    "BERT-base forward": (BERT, dict(source="table"), {}, "forward"),
    "ViT-S/16 forward": (VIT_S, IMAGES, {}, "forward"),
    "ResNet-50 forward": (RESNET, IMAGES, {}, "forward"),
    "MobileNetV1 0.75 forward": (MOBILENET, IMAGES, {}, "forward"),
}


def ours(row: str) -> tuple[Callable[[], Any], dict[str, float]]:
    """(a call that has finished when it returns, its FLOPs)."""
    import jax

    from experiments.speed.accelerator import drawn
    from jaxfer.config import base, resolve
    from jaxfer.config.experiment import ParallelConfig
    from jaxfer.parallel.placement import placement
    from jaxfer.ports import compiled_port_init, make_port
    from jaxfer.stages import example_batch, make_stages
    from jaxfer.training import compilation_cache
    from jaxfer.training.programs import eval_arguments, eval_program, forward_flops, train_program

    model, data, fields, what = ROWS[row]
    if row.endswith("again"):
        compilation_cache.enable(compilation_cache.default())
    config = base()
    config.model, config.data = model, data
    config.update(batch_size=BATCH, steps=10**6, schedule="constant", lr=1e-5, **fields)
    if fields.get("method") == "lora":
        config.options = dict(rank=8, targets=(".*/attn/(query|value)/kernel",))
    experiment = resolve(config)
    (stage,) = make_stages(experiment, *make_port(experiment, CLASSES))
    port, where = stage.spec.port, placement(ParallelConfig(devices=1))
    shapes = example_batch(port, stage.spec.task, BATCH)
    params, model_state = compiled_port_init(port)(jax.random.key(0), drawn(shapes, CLASSES))
    state = jax.device_put(stage.enter(params, model_state, 0), where.replicated)
    batch = jax.device_put(drawn(shapes, CLASSES), where.batched)
    if what == "forward":
        program, _ = eval_program(stage.spec, state, batch, where)
        return lambda: jax.block_until_ready(program.call(*eval_arguments(state), batch)), {"flops": program.flops}
    program, _ = train_program(stage.spec, state, batch, where)

    def step() -> None:
        nonlocal state
        state, metrics = program.call(state, batch)
        jax.block_until_ready(metrics)

    if what == "start":
        return step, {}
    return step, {"flops": program.flops, "forward": forward_flops(stage.spec, state, batch)}


def theirs(row: str) -> tuple[Callable[[], Any], dict[str, float]]:
    """The same in PyTorch."""
    import torch
    import transformers as hf

    model, data, fields, what = ROWS[row]
    if model is BERT:
        network = hf.BertForSequenceClassification(
            hf.BertConfig(num_labels=CLASSES, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        )
        ids = torch.randint(0, 50, (BATCH, 128))
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    else:
        small = dict(hidden_size=384, num_attention_heads=6, intermediate_size=1536)
        networks = {
            "vit": lambda: hf.ViTForImageClassification(hf.ViTConfig(num_labels=CLASSES, **small)),
            "resnet": lambda: hf.ResNetForImageClassification(hf.ResNetConfig(num_labels=CLASSES)),
            "mobilenet_v1": lambda: hf.MobileNetV1ForImageClassification(
                hf.MobileNetV1Config(num_labels=CLASSES, depth_multiplier=0.75, classifier_dropout_prob=0.0)
            ),
        }
        network, inputs = networks[model["name"]](), {"pixel_values": torch.randn(BATCH, 3, 224, 224)}
        if model["name"] != "vit":
            network = network.to(memory_format=torch.channels_last)
            inputs = {name: x.contiguous(memory_format=torch.channels_last) for name, x in inputs.items()}
    if fields.get("method") == "lora":
        import peft

        settings = peft.LoraConfig(r=8, target_modules=["query", "value"], task_type="SEQ_CLS")
        network = peft.get_peft_model(network, settings)
    labels = torch.randint(0, CLASSES, (BATCH,))
    if what == "forward":
        network.eval()

        def forward() -> None:
            with torch.inference_mode():
                network(**inputs)

        return forward, {}
    network.train()
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=1e-5, fused=True)

    def step() -> None:
        loss = torch.nn.functional.cross_entropy(network(**inputs).logits, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step, {}


def serve(side: str, row: str) -> None:
    """Says what it knows, then for each number read the seconds of so many calls."""
    call, known = {"jaxfer": ours, "torch": theirs}[side](row)
    for _ in range(1 if ROWS[row][3] == "start" else 3):
        call()
    print(json.dumps(known), flush=True)
    for line in sys.stdin:
        begun = time.perf_counter()
        for _ in range(int(line)):
            call()
        print((time.perf_counter() - begun) / int(line), flush=True)


class Side:
    """A process that trains when it is asked to."""

    def __init__(self, side: str, row: str):
        command = [sys.executable, __file__, "--side", side, "--rows", row]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        begun = time.perf_counter()
        self.known = json.loads(self._answer())
        self.start = time.perf_counter() - begun

    def seconds(self, calls: int) -> float:
        """Of a call, over so many."""
        print(calls, file=self._process.stdin, flush=True)
        return float(self._answer())

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> str:
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"{' '.join(self._process.args)} ended early")
        return line


Pairs = list[tuple[float, float]]


def stepped(row: str, repeats: int, least: float) -> tuple[Pairs, dict[str, float]]:
    """(seconds of a call on both sides, what jaxfer knows of it)."""
    mine, other = Side("jaxfer", row), Side("torch", row)
    calls = max(1, round(least / max(mine.seconds(1), other.seconds(1))))
    pairs = [(mine.seconds(calls), other.seconds(calls)) for _ in range(repeats)]
    mine.close()
    other.close()
    return pairs, mine.known


def started(row: str, repeats: int, least: float) -> tuple[Pairs, dict[str, float]]:
    """Likewise of starts; one before them fills the cache."""
    times = []
    for _ in range(repeats + 1):
        sides = []
        for side in ("jaxfer", "torch"):
            sides.append(Side(side, row))
            sides[-1].close()
        times.append((sides[0].start, sides[1].start))
    return times[1:], {}


def main(argv: list[str] | None = None) -> None:
    """Prints a table in Markdown, a row as soon as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", default=list(ROWS), help="rows whose names begin like this (default: all)")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=1.5, help="of a side in a repeat, at least a call")
    parser.add_argument("--side", choices=("jaxfer", "torch"), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    rows = [row for row in ROWS if row.startswith(tuple(options.rows))]
    if options.side:
        serve(options.side, *rows[:1])
        return
    print(
        "| | ms, jaxfer | ms, PyTorch | theirs / ours | lowest | highest |\n| --- | ---: | ---: | ---: | ---: | ---: |"
    )
    for row in rows:
        pairs, known = (started if ROWS[row][3] == "start" else stepped)(row, options.repeats, options.seconds)
        ratios = [them / us for us, them in pairs]
        milliseconds = (f"{statistics.median(side) * 1e3:.1f}" for side in zip(*pairs, strict=True))
        spread = (f"{f(ratios):.2f}" for f in (statistics.median, min, max))
        print(f"| {row} | {' | '.join((*milliseconds, *spread))} |", flush=True)
        if "forward" in known:
            print(f"{row}: FLOPs {known['flops'] / known['forward']:.2f} x forward", file=sys.stderr)


if __name__ == "__main__":
    main()
