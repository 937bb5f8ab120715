"""Step time and MFU of full fine-tuning on one GPU or TPU: BERT-base, ViT-B/16 and ResNet-50, each at its best batch.

    python experiments/speed/accelerator.py          # all three; beside torch.compile where PyTorch sees a GPU
    python experiments/speed/accelerator.py --tiny   # seconds on a CPU: checks the script, measures nothing

The step is the one `jaxfer run` compiles: AdamW on every parameter, including metrics and gradient norm, on a batch
already on the device. Batch sizes are powers of two until memory runs out; the best has the most examples per second.
MFU is the step's floating-point operations, as lowered, over its time and the published dense bf16 peak. PyTorch trains
the same architectures from `transformers` with bf16 autocast, fused AdamW and torch.compile, at its own best batch
size, in its own process.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from jaxfer.forecast.chips import CHIPS

IMAGES = dict(source="synthetic", image=(224, 224, 3))
MODELS = {
    "BERT-base": (dict(name="bert", max_length=128), dict(source="table"), 2),
    "ViT-B/16": (dict(name="vit"), IMAGES, 1000),
    "ResNet-50": (dict(name="resnet", stage_sizes=(3, 4, 6, 3), block="bottleneck"), IMAGES, 1000),
}
SMALL = dict(width=16, layers=1, heads=2, mlp_width=16)
TINY = {
    "BERT-base": dict(SMALL, max_length=8, vocab=50),
    "ViT-B/16": dict(SMALL, image=(32, 32, 3)),
    "ResNet-50": dict(stage_sizes=(1, 1), width=4, image=(16, 16, 3)),
}
# The same models as configs of `transformers`.
THEIR_SMALL = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
THEIR_TINY = {
    "BERT-base": dict(THEIR_SMALL, vocab_size=50, max_position_embeddings=8),
    "ViT-B/16": dict(THEIR_SMALL, image_size=32),
    "ResNet-50": dict(embedding_size=4, hidden_sizes=[16, 32], depths=[1, 1]),
}

# (pattern of the device kind, dense bf16 operations per second as published by its vendor; T4: fp16, it has no bf16).
PEAKS = (
    (r"\bH200\b", 989e12),
    (r"\bH100 PCIe\b", 756e12),
    (r"\bH100\b", 989e12),
    (r"\bA100\b", 312e12),
    (r"\bL4\b", 121e12),
    (r"\bT4\b", 65e12),
    (r"TPU v6( lite|e)", CHIPS["v6e"].flops),
    (r"TPU v5( lite|e)", CHIPS["v5e"].flops),
    (r"TPU v5p?$", CHIPS["v5p"].flops),
    (r"TPU v4$", CHIPS["v4"].flops),
)


@dataclasses.dataclass(frozen=True)
class Measured:
    """One model at one batch size.

    Attributes:
      batch: examples per step.
      seconds: time per step, median of the repeats.
      flops: floating-point operations per step.
    """

    batch: int
    seconds: float
    flops: float

    @property
    def rate(self) -> float:
        """Examples per second."""
        return self.batch / self.seconds


def peak(kind: str) -> float | None:
    """Peak FLOP/s of this device kind; None if it is not in the table."""
    return next((flops for pattern, flops in PEAKS if re.search(pattern, kind)), None)


def search(measure: Callable[[int], Measured], smallest: int, largest: int) -> Measured | None:
    """The fastest batch size, doubling until memory runs out; None if even the smallest does not fit."""
    found, batch = [], smallest
    while batch <= largest:
        try:
            found.append(measure(batch))
        except Exception as error:
            if not re.search("RESOURCE_EXHAUSTED|out of memory", str(error), re.IGNORECASE):
                raise
            break
        print(f"  batch {batch}: {found[-1].seconds * 1e3:.1f} ms, {found[-1].rate:.0f} examples/s", file=sys.stderr)
        batch *= 2
    return max(found, key=lambda one: one.rate, default=None)


def timed(step: Callable[[], Any], wait: Callable[[Any], Any], seconds: float, repeats: int = 3) -> float:
    """Seconds per step: the median of repeats that take about `seconds` each."""
    for _ in range(3):
        wait(step())  # one-time compilation, tuning and allocation
    begun = time.perf_counter()
    wait(step())
    count = max(1, round(seconds / max(time.perf_counter() - begun, 1e-6)))
    found = []
    for _ in range(repeats):
        begun = time.perf_counter()
        for _ in range(count):
            last = step()
        wait(last)
        found.append((time.perf_counter() - begun) / count)
    return statistics.median(found)


def ours(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One model in jaxfer."""
    import jax

    device = jax.devices()[0]
    best = search(lambda batch: _step_of_jaxfer(name, batch, options), options.smallest, options.largest)
    top = peak(device.device_kind)
    mfu = best.flops / best.seconds / top if best and top else None
    return {"device": device.device_kind, "best": best and dataclasses.asdict(best), "mfu": mfu}


def _step_of_jaxfer(name: str, batch_size: int, options: argparse.Namespace) -> Measured:
    import jax
    import numpy as np

    from jaxfer.config import base, resolve
    from jaxfer.config.experiment import ParallelConfig
    from jaxfer.parallel.placement import placement
    from jaxfer.ports import compiled_port_init, make_port
    from jaxfer.stages import example_batch, make_stages
    from jaxfer.training.programs import train_program

    model, data, classes = MODELS[name]
    config = base()
    config.model = {**model, **(TINY[name] if options.tiny else {})}
    config.data = data
    config.update(batch_size=batch_size, steps=1000, compute_dtype="bfloat16")
    experiment = resolve(config)
    (stage,) = make_stages(experiment, *make_port(experiment, classes))
    port, task = stage.spec.port, stage.spec.task
    shapes, where = example_batch(port, task, batch_size), placement(ParallelConfig(devices=1))
    params, model_state = compiled_port_init(port)(jax.random.key(0), drawn(example_batch(port, task, 2), classes))
    state = jax.device_put(stage.enter(params, model_state, 0), where.replicated)
    del params, model_state  # a second copy of the weights
    program, _ = train_program(stage.spec, state, shapes, where)
    batch = jax.device_put(drawn(shapes, classes), where.batched)

    def step() -> Any:
        nonlocal state
        state, metrics = program.call(state, batch)
        return metrics

    seconds = timed(step, jax.block_until_ready, options.seconds)
    assert np.isfinite(float(step()["loss"]))
    return Measured(batch_size, seconds, program.flops)


def drawn(shapes: dict[str, Any], classes: int) -> dict[str, Any]:
    """Random values of these shapes: labels below `classes`, tokens in the first few of the vocabulary, full masks."""
    import numpy as np

    rng, batch = np.random.default_rng(0), {}
    for name, shape in shapes.items():
        if np.issubdtype(shape.dtype, np.floating):
            batch[name] = rng.standard_normal(shape.shape, np.float32).astype(shape.dtype)
        elif name == "attention_mask":
            batch[name] = np.ones(shape.shape, shape.dtype)
        else:
            most = {"label": classes, "token_type_ids": 2}.get(name, 50)
            batch[name] = rng.integers(0, most, shape.shape).astype(shape.dtype)
    return batch


def theirs(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """The same model in PyTorch if it sees a GPU; a tiny one on any device."""
    try:
        import torch
    except ImportError:
        return {}
    if not (torch.cuda.is_available() or options.tiny):
        return {}
    best = search(lambda batch: _step_of_torch(name, batch, options), options.smallest, options.largest)
    return {"version": torch.__version__, "best": best and dataclasses.asdict(best)}


def _step_of_torch(name: str, batch_size: int, options: argparse.Namespace) -> Measured:
    import torch
    import transformers as hf

    kind = "cuda" if torch.cuda.is_available() else "cpu"
    classes, small = MODELS[name][2], THEIR_TINY[name] if options.tiny else {}
    if kind == "cuda":
        torch.cuda.empty_cache()
    if name == "BERT-base":
        config = hf.BertConfig(num_labels=classes, **small)
        model = hf.BertForSequenceClassification(config)
        ids = torch.randint(0, 50, (batch_size, min(128, config.max_position_embeddings)), device=kind)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    else:
        families = {
            "ViT-B/16": (hf.ViTForImageClassification, hf.ViTConfig),
            "ResNet-50": (hf.ResNetForImageClassification, hf.ResNetConfig),
        }
        network, config = families[name]
        config = config(num_labels=classes, **small)
        model, size = network(config), getattr(config, "image_size", 16 if options.tiny else 224)
        inputs = {"pixel_values": torch.randn(batch_size, 3, size, size, device=kind)}
    model = model.to(kind).train()
    if name == "ResNet-50":
        model = model.to(memory_format=torch.channels_last)
        inputs = {key: value.contiguous(memory_format=torch.channels_last) for key, value in inputs.items()}
    labels = torch.randint(0, classes, (batch_size,), device=kind)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    compiled = torch.compile(model)

    def step() -> Any:
        with torch.autocast(kind, torch.bfloat16):
            logits = compiled(**inputs).logits
        loss = torch.nn.functional.cross_entropy(logits.float(), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss

    wait = torch.cuda.synchronize if kind == "cuda" else lambda: None
    seconds = timed(step, lambda _: wait(), options.seconds)
    assert torch.isfinite(step())
    torch.compiler.reset()
    return Measured(batch_size, seconds, 0.0)


def row(name: str, found: dict[str, Any], other: dict[str, Any]) -> str:
    """One line of the table."""
    best, beside = found["best"], other.get("best")
    if best is None:
        return f"| {name} | not even the smallest fits | | | | | | |"
    rate = best["batch"] / best["seconds"]
    mfu = "" if found["mfu"] is None else f"{found['mfu']:.1%}"
    torch = ("", "")
    if beside:
        torch_rate = beside["batch"] / beside["seconds"]
        torch = (f"{torch_rate:.0f} at {beside['batch']}", f"{rate / torch_rate:.2f}")
    cells = (name, best["batch"], f"{best['seconds'] * 1e3:.1f}", f"{rate:.0f}")
    cells += (f"{best['flops'] / best['seconds'] / 1e12:.1f}", mfu, *torch)
    return f"| {' | '.join(map(str, cells))} |"


HEAD = """| model | batch | ms a step | examples/s | TFLOP/s | MFU | torch.compile, ex./s | ours / theirs |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"""


def main(argv: list[str] | None = None) -> None:
    """Prints a Markdown table; progress over batch sizes goes to standard error."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--smallest", type=int, default=8, help="first batch size (default 8)")
    parser.add_argument("--largest", type=int, default=4096, help="largest batch size, if it fits (default 4096)")
    parser.add_argument("--seconds", type=float, default=3.0, help="seconds per repeat; there are three (default 3)")
    parser.add_argument("--tiny", action="store_true", help="models of a few thousand parameters, to try the script")
    parser.add_argument("--side", choices=("jaxfer", "torch"), help="run one side only, print a JSON object")
    options = parser.parse_args(argv)
    if options.side == "jaxfer":
        from jaxfer.training import compilation_cache

        compilation_cache.enable(compilation_cache.default())
    if options.side:
        side = {"jaxfer": ours, "torch": theirs}[options.side]
        found = {}
        for name in options.models:
            print(f"{options.side}, {name}", file=sys.stderr)
            found[name] = side(name, options)
        print(json.dumps(found))
        return
    # Each side in its own process: either would keep the device's memory from the other.
    arguments = sys.argv[1:] if argv is None else argv
    found = {side: _process([*arguments, "--side", side]) for side in ("jaxfer", "torch")}
    first = next(iter(found["jaxfer"].values()))
    known = "its peak is not in the table: no MFU" if peak(first["device"]) is None else "one device"
    known = "tiny models: the script works, nothing is measured" if options.tiny else known
    print(f"{first['device']} ({known})\n\n{HEAD}")
    for name in options.models:
        print(row(name, found["jaxfer"][name], found.get("torch", {}).get(name, {})))


def _process(arguments: list[str]) -> dict[str, Any]:
    environment = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92", **os.environ}
    done = subprocess.run([sys.executable, __file__, *arguments], env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
