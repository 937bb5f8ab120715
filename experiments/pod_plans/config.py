"""Configs for `run.py`: fine-tuning of five networks in bfloat16, 512 examples a step, parameters split over all chips.

jaxfer plan experiments/pod_plans/config.py:vit_b --topology v5e:16x16
"""

import tempfile
from pathlib import Path

import jaxfer.config

MODELS = {
    "vit_b": dict(name="vit"),
    "vit_l": dict(name="vit", width=1024, layers=24, heads=16, mlp_width=4096),
    "resnet50": dict(name="resnet", stage_sizes=(3, 4, 6, 3), block="bottleneck"),
    "bert_base": dict(name="bert", max_length=128),
    "vit_b_1024": dict(name="vit", image=(512, 512, 3)),  # patches
    "bert_base_512": dict(name="bert", max_length=512),  # tokens
    "bert_large": dict(name="bert", width=1024, layers=24, heads=16, mlp_width=4096, max_length=128),
}


def get_config(arg=""):
    """arg: one of MODELS (default `vit_b`), `lora`, `remat`; `data`: whole parameters; `fsdp16`: in 16 parts."""
    words = jaxfer.config.words(arg, (*MODELS, "lora", "remat", "data", "fsdp16"))
    name = next((word for word in words if word in MODELS), "vit_b")
    config = jaxfer.config.base()
    config.model = MODELS[name]
    # A plan depends on the data's classes, not on its values.
    image = MODELS[name].get("image", (224, 224, 3))
    config.data = dict(source="synthetic", image=image, classes_count=10, examples=10)
    if config.model.name == "bert":
        config.data = dict(source="table", path="tests/data/phrases")
        config.model.tokenizer = _tokenizer()
    config.update(batch_size=512, steps=1000, compute_dtype="bfloat16")
    if "fsdp16" in words:
        config.parallel.fsdp = 16
    elif "data" not in words:
        config.parallel.mode = "fsdp"
    if "remat" in words:
        config.remat = (".*",)
    if "lora" in words:
        config.update(method="lora", options=dict(rank=8))
    return config


def _tokenizer():
    """A folder with the tests' tokenizer padded to BERT's 30522 tokens: embeddings are part of the memory."""
    source, folder = Path("tests/data/tokenizer"), Path(tempfile.gettempdir(), "jaxfer-pod-plans-tokenizer")
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer_config.json").write_text((source / "tokenizer_config.json").read_text())
    words = (source / "vocab.txt").read_text().split()
    words += [f"[unused{i}]" for i in range(30522 - len(words))]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    return str(folder)
