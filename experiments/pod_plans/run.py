"""Plans every network, method and slice and prints the README's table; resumes when started again.

JAX_PLATFORMS=cpu python experiments/pod_plans/run.py
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]  # the config names the tests' data from there
MODELS = ("vit_b", "bert_base", "resnet50", "bert_large", "vit_l")
SLICES = ("v5e:4x4", "v5e:16x16", "v6e:8x8")  # 16, 256 and 64 chips
# (config argument, slice); the plans to compare first come first.
CASES = (
    *((model, SLICES[0]) for model in MODELS),
    *((f"{model},{word}", SLICES[0]) for word in ("data", "remat") for model in ("vit_b", "bert_base")),
    *((model, SLICES[1]) for model in MODELS),
    *((f"{model},lora", SLICES[0]) for model in MODELS),
    *((model, SLICES[2]) for model in MODELS),
    *((f"{model},lora", topology) for topology, model in itertools.product(SLICES[1:], MODELS)),
    *((f"{model},fsdp16", SLICES[1]) for model in MODELS),
)
LONG = (("bert_base_512", SLICES[0]), ("vit_b_1024", SLICES[0]))  # inputs long enough for fused attention
GIB = 2**30


def path(words: str, topology: str) -> Path:
    """The file of a plan."""
    return HERE / "plans" / f"{words}-{topology}.json".replace(",", "-").replace(":", "-")


def plan(words: str, topology: str) -> str:
    """Makes one plan in its own process, since a compile can leave gigabytes behind; returns the outcome."""
    config = f"{HERE.relative_to(ROOT) / 'config.py'}:{words}"
    command = [sys.executable, "-m", "jaxfer", "plan", config, f"--topology={topology}", "--json"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode not in (0, 4):  # 4: it does not fit
        return f"exit code {done.returncode}: {done.stderr[-500:]}"
    found, target = json.loads(done.stdout), path(words, topology)
    target.parent.mkdir(exist_ok=True)
    part = target.with_suffix(".part")
    part.write_text(json.dumps(found, indent=1) + "\n")
    part.replace(target)
    return "planned"


def table(cases: list[tuple[str, str]]) -> str:
    """Markdown: memory by kind, operations, collectives and the estimate of each."""
    lines = ["| config | slice | chips | GiB a chip | of | state | temporary | sent, MB a chip | ms a step | MFU |"]
    lines += ["| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"]
    for words, topology in cases:
        planned = json.loads(path(words, topology).read_text())
        (stage,) = planned["stages"]
        step, needed = stage["compiled"], f"{stage['needed'] / GIB:.2f}"
        cells = [words.replace(",", ", "), topology, str(planned["chips"])]
        cells += [needed if stage["fits"] else f"> {needed}, too much", f"{planned['memory'] / GIB:.2f}"]
        if step:
            low, high = (1e3 * seconds for seconds in stage["estimate"])
            least, most = stage["mfu"]
            cells += [f"{step['state'] / GIB:.3f}", f"{step['temporaries'] / GIB:.2f}"]
            cells += [f"{sum(step['collectives'].values()) / 1e6:.0f}"]
            cells += [f"{low:.1f} to {high:.1f}", f"{least:.0%} to {most:.0%}"]
        lines.append(f"| {' | '.join(cells + ['?'] * (10 - len(cells)))} |")
    return "\n".join(lines)


def attention() -> str:
    """Markdown: memory a chip of the long inputs with plain and with fused attention."""
    lines = ["| config | slice | GiB a chip, plain | fused | saved |", "| --- | --- | ---: | ---: | ---: |"]
    for words, topology in (case for case in LONG if path(*case).exists()):
        (stage,) = json.loads(path(words, topology).read_text())["stages"]
        plain, fused = stage["plain"]["needed"] / GIB, stage["needed"] / GIB
        lines.append(f"| {words} | {topology} | {plain:.2f} | {fused:.2f} | {plain - fused:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Makes the missing plans, then prints the tables of all plans."""
    for words, topology in (*CASES, *LONG):
        if not path(words, topology).exists():
            print(f"{words}, {topology}: {plan(words, topology)}", file=sys.stderr, flush=True)
    done = [case for case in CASES if path(*case).exists()]
    print(f"{table(done)}\n\n{attention()}")
    print(f"{len(done)} of {len(CASES)} planned", file=sys.stderr)


if __name__ == "__main__":
    main()
