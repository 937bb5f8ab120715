"""The training loop of `jaxfer run` beside its bare compiled step, for steps of about 20 ms.

    python experiments/speed/overhead.py --repeats 9

jaxfer run experiments/speed/overhead.py      # one such run by hand

A ResNet on 32 synthetic images of 24 px a step, 300 steps: a line every 10 steps, an evaluation of 96 images and a save
every 100. In one process, in turn: a run, and as many calls of the same compiled step on one batch that is on the
device. `loop` is of the steps alone with their input, as `result.json` counts them; `whole` is all that follows the
first step: evaluations, saves and lines too. Leave the machine idle.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import jax

import jaxfer
import jaxfer.config
from jaxfer.training.preflight import preflight
from jaxfer.training.programs import train_program
from jaxfer.training.session import Session

STEPS, BATCH = 300, 32


def get_config(arg: str = "") -> Any:
    """The run."""
    config = jaxfer.config.base()
    config.model = dict(name="resnet", stage_sizes=(2, 2), width=16, stem="cifar", image=(24, 24, 3))
    config.data = dict(source="synthetic", image=(24, 24, 3), examples=480)
    config.update(batch_size=BATCH, steps=STEPS, log_every=10, eval_every=100, save_every=100)
    config.parallel.devices = 1
    return config


def run() -> tuple[float, float]:
    """Seconds of a step in the loop, and of all that follows the first of them."""
    begun: list[float] = []

    def took(session: Session, *given: Any, **named: Any) -> None:
        begun.append(time.perf_counter())
        former(session, *given, **named)

    former, Session.took = Session.took, took
    try:
        with tempfile.TemporaryDirectory() as folder:
            jaxfer.run(get_config(), folder, quiet=True)
            ended = time.perf_counter()
            cost = json.loads((Path(folder) / "result.json").read_text())["cost"]
    finally:
        Session.took = former
    first = 10  # steps before the metrics of the first line are fetched
    return BATCH / cost["examples_per_second"], (ended - begun[0]) / (STEPS - first)


def bare() -> float:
    """Seconds of a call of the compiled step."""
    ready = preflight(get_config())
    (stage,), where = ready.stages, ready.where
    from jaxfer.conformance.training import entered

    state = where.place(stage.spec, entered(stage))
    batch = jax.device_put(jax.tree.map(lambda s: jax.numpy.zeros(s.shape, s.dtype), stage.example()), where.batched)
    program, _ = train_program(stage.spec, state, batch, where)
    state, _ = program.call(state, batch)
    jax.block_until_ready(state)
    begun = time.perf_counter()
    for i in range(STEPS):
        state, metrics = program.call(state, batch)
        if i % 4 == 3:  # the loop does not run far ahead either
            jax.block_until_ready(metrics)
    jax.block_until_ready(state)
    return (time.perf_counter() - begun) / STEPS


def main(argv: list[str] | None = None) -> None:
    """Prints medians, and the lowest and highest ratio of a round."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args(argv)
    run()  # compiles
    rounds = [(*run(), bare()) for _ in range(options.repeats)]
    print("| | ms a step | / bare step | lowest | highest |\n| --- | ---: | ---: | ---: | ---: |")
    for i, name in enumerate(("loop", "whole", "bare step")):
        ratios = [times[i] / times[2] for times in rounds]
        spread = (f"{f(ratios):.3f}" for f in (statistics.median, min, max))
        print(f"| {name} | {1e3 * statistics.median(times[i] for times in rounds):.2f} | {' | '.join(spread)} |")


if __name__ == "__main__":
    main()
