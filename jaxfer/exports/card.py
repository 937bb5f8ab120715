"""The model card of an export: its model, origin, scores and loading code."""

from __future__ import annotations

import json
from typing import Any

from jaxfer.pretrained.foreign import is_foreign
from jaxfer.pretrained.hub import SENTENCE
from jaxfer.runs.finished import FinishedRun

AUTO_CLASSES = {
    "image": ("AutoModelForImageClassification", "AutoImageProcessor"),
    "text": ("AutoModelForSequenceClassification", "AutoTokenizer"),
}


def card(finished: FinishedRun, format: str) -> str:
    """The README.md of an export: Markdown with the Hub's metadata header."""
    experiment, result = finished.experiment, finished.result
    last, commit = finished.stage.config, _commit(finished)
    library = format if format in ("peft", SENTENCE) else "transformers"
    header = ["---", f"library_name: {library}", "tags:", "- jaxfer"]
    if commit is not None:
        header.append(f"base_model: {experiment.run.init.partition('@')[0]}")
    rows = [
        f"| {split} | {name} | {value:.4f} |"
        for split, metrics in result["metrics"].items()
        for name, value in metrics.items()
    ]
    stages = " -> ".join(f"{name} ({stage.method}, {stage.steps} steps)" for name, stage in experiment.stages)
    lineage, source = result["lineage"], result["lineage"].get("source_sha256")
    facts = {
        "Model": f"{experiment.model.name}, {result['cost']['params_total']:,} parameters",
        "Starts from": experiment.run.init + (f" (sha256 {_short(source)})" if source else ""),
        "Trained by": f"{stages}; the parameters are from step {result['checkpoint_step']} of {result['steps']}",
        "Last stage": f"{last.method} {json.dumps(dict(last.options))}, batch size {last.batch_size}",
        "Task": f"{experiment.task.name}" + (f": {', '.join(finished.classes[:20])}" if finished.classes else ""),
        **_longest(finished),
        "Data": f"source {experiment.source.name}, sha256 {_short(lineage['data_sha256'])}; {_counts(result)}",
        "Weights": f"sha256 {_short(lineage['sha256'])} (jaxfer's fingerprint of the merged parameters)",
        "Seed": str(result["seed"]),
        "Versions": ", ".join(f"{name} {version}" for name, version in result["versions"].items()),
    }
    lines = [
        *header,
        "---",
        "",
        f"# {finished.folder.name}",
        "",
        f"Trained with jaxfer, written by `jaxfer export {finished.folder} --format={format}`.",
        "",
        *(f"- **{name}**: {value}" for name, value in facts.items()),
        "",
        "| split | metric | value |",
        "| --- | --- | --- |",
        *rows,
        "",
        "```python",
        *_loading(finished, format),
        "```",
    ]
    return "\n".join(lines) + "\n"


def _longest(finished: FinishedRun) -> dict[str, str]:
    """The longest input that a text model was trained on; {} for other models."""
    facts = finished.stage.spec.port.encoding.facts()
    return {"Longest input": f"{facts['max_length']} tokens"} if "max_length" in facts else {}


def _commit(finished: FinishedRun) -> str | None:
    """The Hub commit of the checkpoint that a run started from; None for other sources."""
    foreign = is_foreign(finished.experiment.run.init)
    return finished.result["lineage"]["source"]["commit"] if foreign else None


def _loading(finished: FinishedRun, format: str) -> list[str]:
    if format == SENTENCE:
        line = 'logits = SentenceTransformer(".").encode(["a text"])  # [texts, outputs], in the order of the labels'
        if not finished.stage.spec.port.outputs:
            line = 'embeddings = SentenceTransformer(".").encode(["a text"])  # [texts, width]'
        return ["from sentence_transformers import SentenceTransformer", "", line]
    model, processor = AUTO_CLASSES["image" if "image" in finished.stage.spec.port.inputs else "text"]
    if format == "peft":
        source = finished.result["lineage"]["source"]
        named = source.get("adapter_base") or {"init": finished.experiment.run.init, "commit": _commit(finished)}
        commit = named["commit"]
        base = named["init"] if commit is None else named["init"].partition("@")[0]
        revision = "" if commit is None else f"revision={commit!r}, "
        return [
            "from peft import PeftModel",
            f"from transformers import {model}",
            "",
            f"base = {model}.from_pretrained(",
            f"    {base!r}, {revision}num_labels={finished.stage.spec.port.outputs}, ignore_mismatched_sizes=True",
            ")",
            'model = PeftModel.from_pretrained(base, ".")',
        ]
    if format != "hf":
        return ["import safetensors.torch", "", 'state_dict = safetensors.torch.load_file("model.safetensors")']
    return [
        f"from transformers import {processor}, {model}",
        "",
        f'processor, model = {processor}.from_pretrained("."), {model}.from_pretrained(".")',
    ]


def _counts(result: dict[str, Any]) -> str:
    return ", ".join(f"{count} {split}" for split, count in result["examples"].items())


def _short(sha256: str) -> str:
    return sha256[:16]
