"""Writes the table of families in README.md, here: sizes from the code, errors from the last run of the parity tests.

    JAXFER_PARITY=$PWD/build/parity.jsonl make parity
    python experiments/model_zoo/table.py

Parameters, operations and memory are those of the family's default options with 10 outputs. A step is forward, backward
and plain SGD on 8 examples in float32, compiled for a CPU; memory is what it holds besides parameters and batch.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from pathlib import Path

import jax

from jaxfer.models import heads
from jaxfer.models.port import Training
from jaxfer.pretrained.families import layouts
from jaxfer.registry import MODELS, TASKS
from jaxfer.rules import flatten

HERE = Path(__file__).parent
BATCH, OUTPUTS = 8, 10
FAMILY = {"two_towers": "clip"}  # of tests/parity/test_NAME.py, where it is not called so
BEGIN, END = "<!-- table -->", "<!-- end -->"


def described(name: str) -> dict[str, str]:
    """What the code and its docstring say of a family."""
    module = sys.modules[MODELS.get(name).__module__]
    doc = inspect.getdoc(module) or ""
    networks = [line.split("|")[1].strip() for line in doc.splitlines() if line.startswith("| ")][1:]
    kinds = heads.supported(MODELS.get(name))
    tasks = [task for task in TASKS.names() if TASKS.make(task).head in kinds]
    own = [layout for layout in layouts() if layout.family == name]
    return {
        "networks": ", ".join(networks) or doc.splitlines()[0].split(":")[0],
        "layouts": ", ".join(
            f"{layout.name} ({', '.join(layout.model_types)})" if layout.model_types else layout.name for layout in own
        ),
        "tasks": ", ".join(tasks),
    }


def measured(name: str) -> dict[str, float]:
    """Parameters in millions, operations of a step in 10^9, MiB of temporary memory."""
    port = MODELS.make(name, outputs=OUTPUTS)
    params, state = jax.eval_shape(port.init, jax.random.key(0), port.example(BATCH))
    training = Training(key=jax.random.key(0), live=frozenset(port.units), eval_norms=frozenset())

    def step(params, state, batch):
        def loss(params):
            outputs, after = port.apply(params, state, batch, training=training)
            return -jax.nn.log_softmax(outputs)[:, 0].mean(), after

        gradient, after = jax.grad(loss, has_aux=True)(params)
        return jax.tree.map(lambda leaf, slope: leaf - 0.1 * slope, params, gradient), after

    compiled = (
        jax.jit(step, donate_argnums=(0, 1))
        .lower(params, state, port.example(BATCH))
        .compile(compiler_options={"xla_backend_optimization_level": 1})
    )
    return {
        "parameters": sum(leaf.size for leaf in flatten(params).values()) / 1e6,
        "gflop": compiled.cost_analysis()["flops"] / 1e9,
        "mib": compiled.memory_analysis().temp_size_in_bytes / 2**20,
    }


def errors(file: Path) -> dict[str, float]:
    """{family: the largest error of its activations and logits, in units of max(1, max |reference|)}."""
    found: dict[str, float] = {}
    known = sorted(MODELS.names(), key=len, reverse=True)
    for line in file.read_text().splitlines() if file.exists() else ():
        entry = json.loads(line)
        hit = re.search(r"test_families.py::\w+\[([\w-]+)\]", entry["test"])
        case = hit[1] if hit else re.sub(r".*/test_(\w+)\.py.*", r"\1", entry["test"])
        case = FAMILY.get(case, case)
        family = next((name for name in known if case.startswith(name)), None)
        if family:
            found[family] = max(found.get(family, 0.0), entry["error"])
    return found


def main() -> None:
    worst, checked = errors(HERE.parents[1] / "build" / "parity.jsonl"), json.loads((HERE / "real.json").read_text())
    rows = [
        "| family | networks | checkpoints | tasks | parameters (M) | GFLOP a step | MiB | error | real weights |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in sorted({layout.family for layout in layouts()}):
        print(name, flush=True)
        says, sizes = described(name), measured(name)
        error = f"{worst[name]:.1e}" if name in worst else ""
        rows.append(
            f"| `{name}` | {says['networks']} | {says['layouts']} | {says['tasks']} | {sizes['parameters']:.1f} | "
            f"{sizes['gflop']:.0f} | {sizes['mib']:.0f} | {error} | {checked.get(name, '')} |"
        )
    file = HERE / "README.md"
    before, _, rest = file.read_text().partition(BEGIN)
    file.write_text(f"{before}{BEGIN}\n" + "\n".join(rows) + f"\n{END}" + rest.partition(END)[2])


if __name__ == "__main__":
    main()
