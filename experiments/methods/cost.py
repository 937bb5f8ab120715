"""What each parameter-efficient method costs on ViT-B/16 and BERT-base: writes the table in README.md, here.

    python experiments/methods/cost.py

From shapes alone: a step of 32 examples (images of 224 x 224; 128 tokens) under AdamW with 10 classes, the operations
as XLA counts them before it compiles. Nothing is allocated.
"""

from __future__ import annotations

from pathlib import Path

import jaxfer.config
from jaxfer.config import resolve
from jaxfer.errors import InputError
from jaxfer.parallel.placement import placement
from jaxfer.ports import make_port
from jaxfer.stages import make_stages
from jaxfer.training.summary import StageSummary, summary

README = Path(__file__).with_name("README.md")
BEGIN, END = "<!-- table -->", "<!-- end -->"
MODELS = {"ViT-B/16": {"name": "vit", "image": (224, 224, 3)}, "BERT-base": {"name": "bert", "max_length": 128}}
TOKENIZER = Path(__file__).parents[2] / "tests" / "data" / "tokenizer"
METHODS = {
    "full": {},
    "probe": {},
    "lora": {"rank": 8, "targets": (".*/attn/(query|value)/kernel",)},
    "lora, every kernel": {"rank": 8},
    "dora": {"rank": 8, "targets": (".*/attn/(query|value)/kernel",)},
    "vera": {"targets": (".*/attn/(query|value)/kernel",)},
    "loha": {"rank": 8, "targets": (".*/attn/(query|value)/kernel",)},
    "lokr": {"rank": 8, "targets": (".*/attn/(query|value)/kernel",)},
    "oft": {"targets": (".*/attn/(query|value)/kernel",)},
    "ia3": {},
    "bitfit": {},
    "norm_tuning": {},
    "ssf": {},
    "adapter": {"kind": "houlsby", "bottleneck": 48},
    "adapter, pfeiffer": {"kind": "pfeiffer", "bottleneck": 48},
    "adapter, parallel": {"kind": "parallel", "bottleneck": 48},
    "adapter, adaptformer": {"kind": "adaptformer", "bottleneck": 48},
    "vpt": {"tokens": 10},
    "prompt_tuning": {"tokens": 20},
    "prefix_tuning": {"tokens": 20},
}


def planned(model: str, method: str, options: dict) -> StageSummary:
    """Raises `InputError` where the method does not apply to the model."""
    config = jaxfer.config.base()
    config.model = dict(MODELS[model])
    if model == "BERT-base":
        config.model.tokenizer = str(TOKENIZER)
        config.model.vocab = 30522
    config.update(method=method, options=options, batch_size=32, steps=10)
    experiment = resolve(config)
    (stage,) = make_stages(experiment, *make_port(experiment, 10))
    return summary(stage, placement(experiment.parallel))


def row(model: str, label: str, options: dict) -> str:
    try:
        found = planned(model, label.split(",")[0], options)
    except InputError as error:
        return f"| `{label}` | {model} | - | - | - | {str(error).split(': ')[-1].split(';')[0]} |"
    trained = found.params_trainable / 1e6
    ratio = found.step_flops / found.forward_flops
    return (
        f"| `{label}` | {model} | {trained:.3f} | {100 * found.params_trainable / found.params_total:.2f} | "
        f"{found.optimizer_bytes / 2**20:.1f} | {found.step_flops / 1e9:,.0f} ({ratio:.2f} x forward) |"
    )


def main() -> None:
    from jaxfer.registry import METHODS as known

    head = [
        "| method | model | trained, millions | % | optimizer, MiB | operations of a step, 10^9 |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    rows = []
    for model in MODELS:
        for label, options in METHODS.items():
            if label.split(",")[0] in known.names():
                rows.append(row(model, label, options))
                print(rows[-1], flush=True)
    text = README.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    README.write_text(before + "\n".join([BEGIN, *head, *rows, END]) + after)


if __name__ == "__main__":
    main()
