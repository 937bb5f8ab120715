"""Draws memory.png and memory.svg: memory per chip of each planned step, one bar per plan, with the chip's capacity.

python experiments/pod_plans/draw.py
"""

from __future__ import annotations

import json
from pathlib import Path

from run import CASES, GIB, MODELS, path

from jaxfer.figures import look

NAMES = dict(vit_b="ViT-B/16", bert_base="BERT-base", resnet50="ResNet-50", bert_large="BERT-large", vit_l="ViT-L/16")
WAYS = {
    "": "full",
    "data": "full, data parallel",
    "remat": "full, remat",
    "fsdp16": "full, in 16 parts",
    "lora": "LoRA",
}
KINDS = {
    "temporaries": ("activations, gradients, buffers", "#56B4E9"),
    "state": ("State", "#D55E00"),
    "batch": ("batch", "#E69F00"),
    "program": ("code", "#009E73"),
    "padding": ("padding", "#BBBBBB"),
}


def rows() -> list[tuple[str, str, int, dict]]:
    """(model, way, chips, plan) of each plan, in the order of the picture."""
    found = []
    for words, topology in CASES:
        model, _, way = words.partition(",")
        if path(words, topology).exists():
            planned = json.loads(path(words, topology).read_text())
            if planned["stages"][0]["compiled"]:
                found.append((model, way, planned["chips"], planned))
    order = list(WAYS)
    return sorted(found, key=lambda row: (MODELS.index(row[0]), row[2], order.index(row[1])))


@look.drawn
def draw(target: Path) -> None:
    """Stacked bars in GiB, grouped by network."""
    found = rows()
    figure = look.new_figure(11, 1.6 + 0.34 * len(found) + 0.5 * len({model for model, *_ in found}))
    axes = figure.add_subplot()
    level, levels, last = 0.0, [], None
    for model, *_ in found:
        level += 1.6 if model != last and last else 1.0
        last = model
        levels.append(level)
    left = [0.0] * len(found)
    for kind, (name, colour) in KINDS.items():
        sizes = [planned["stages"][0]["compiled"][kind] / GIB for *_, planned in found]
        axes.barh(levels, sizes, left=left, height=0.72, color=colour, label=name)
        left = [a + b for a, b in zip(left, sizes, strict=True)]
    for y, end, (*_, planned) in zip(levels, left, found, strict=True):
        share = planned["stages"][0]["needed"] / planned["memory"]
        text = f"{end:.2f} GiB, {share:.0%} of a {planned['topology'].partition(':')[0]} chip's"
        axes.annotate(text, (end, y), (5, 0), textcoords="offset points", va="center", fontsize=11)
    axes.set_yticks(levels, [f"{NAMES[model]}, {WAYS[way]}, {chips} chips" for model, way, chips, _ in found])
    axes.set_ylim(levels[-1] + 0.8, levels[0] - 0.8)
    axes.set_xlim(0, 1.6 * max(left))
    axes.set_xlabel("GiB a chip, in a step of 512 examples over all chips")
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=len(KINDS), frameon=False)
    look.save(figure, target)


if __name__ == "__main__":
    draw(Path(__file__).resolve().parent / "memory")
