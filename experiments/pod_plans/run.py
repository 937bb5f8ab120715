"""Plans every network, method and slice, and writes the README's table and picture; started again, it does the rest.

JAX_PLATFORMS=cpu python experiments/pod_plans/run.py
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
MODELS = ("vit_b", "vit_l", "resnet50", "bert_base", "bert_large")
METHODS = ("full", "lora")
SLICES = ("v5e:4x4", "v6e:8x8", "v5e:16x16")  # 16, 64 and 256 chips
GIB = 2**30


def results() -> list[tuple[str, str, str, dict]]:
    """(model, method, slice, plan), each in a process of its own: a compile can leave gigabytes behind."""
    found = []
    for model, method, topology in itertools.product(MODELS, METHODS, SLICES):
        path = HERE / "plans" / f"{model}-{method}-{topology.replace(':', '-')}.json"
        if not path.exists():
            config = f"{HERE / 'config.py'}:{model}" + (",lora" if method == "lora" else "")
            command = [sys.executable, "-m", "jaxfer", "plan", config, f"--topology={topology}", "--json"]
            done = subprocess.run(command, env={**os.environ, "JAX_PLATFORMS": "cpu"}, capture_output=True, text=True)
            if done.returncode not in (0, 1):  # 1: it does not fit
                raise SystemExit(f"{model}, {method}, {topology}: {done.stderr[-2000:]}")
            path.parent.mkdir(exist_ok=True)
            path.write_text(done.stdout)
            print(f"{model}, {method}, {topology}: planned", file=sys.stderr, flush=True)
        found.append((model, method, topology, json.loads(path.read_text())))
    return found


def table(found: list[tuple[str, str, str, dict]]) -> str:
    """Markdown: memory by kind, operations, collectives and the estimate of each."""
    lines = [
        "| network | method | slice | GiB a chip | State | temporary | collectives, MB a chip | at best, ms | MFU |"
    ]
    lines += ["| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"]
    for model, method, topology, planned in found:
        (stage,) = planned["stages"]
        step = stage["compiled"]
        moved = sum(step["collectives"].values()) / 1e6
        cells = [model, method, topology, f"{step['total'] / GIB:.2f}" + ("" if stage["fits"] else " (too much)")]
        cells += [f"{step['state'] / GIB:.3f}", f"{step['temporaries'] / GIB:.2f}", f"{moved:.0f}"]
        cells += [f"{1e3 * max(stage['seconds'].values()):.2f}", f"{stage['mfu']:.0%}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(results()))
