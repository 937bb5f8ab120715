"""Seconds of a training step in this checkout and in another one, side by side: the runs of tests/golden.py.

    git worktree add --detach ../before 8768c4f
    python experiments/speed/steps.py ../before                              # all ten, about 15 minutes
    python experiments/speed/steps.py ../before --rounds 61 --only "images, LoRA"

Both checkouts train in a process of their own, and one waits while the other works: each round is some calls of the
compiled step, then as many steps of the loop with its input. The medians of the paired ratios, this checkout through
the other, come with a 95 % bootstrap interval. Leave the machine idle.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import bootstrap

HERE = Path(__file__).resolve().parents[2]
PROGRAM, LOOP = "compiled step", "loop"
NEVER = 10**6  # steps of a run that is stopped from outside


def train(tree: str, name: str, calls: int) -> None:
    """A run of that checkout that stops every `calls` steps, writes their seconds and does what it reads next."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.chdir(tree)
    sys.path.insert(0, tree)
    import jax

    import jaxfer
    from jaxfer.training import programs
    from tests import golden

    if Path(tree) not in Path(jaxfer.__file__).parents:
        sys.exit(f"expected jaxfer of {tree}, found {jaxfer.__file__}; install neither checkout's where it comes first")
    config = golden.configs()[name]
    config.update(steps=NEVER, log_every=50)
    if config.stages:
        last = config.stages[-1]
        config.stages, config.stage = (last,), {last: {**config.stage[last].to_dict(), "steps": NEVER}}
    compile_step, answers = programs._compile, sys.stdout
    done, begun = 0, None

    def paused(*args, **kwargs):
        program = compile_step(*args, **kwargs)
        return dataclasses.replace(program, call=stepping(program.call)) if program.alias_bytes else program

    def stepping(call):
        def step(state, batch):
            nonlocal done, begun
            if done % calls == 0:
                jax.block_until_ready(state)
                if begun:
                    print(time.perf_counter() - begun, file=answers, flush=True)
                while (asked := sys.stdin.readline().strip()) == PROGRAM:
                    begun = time.perf_counter()
                    for i in range(calls):
                        state, metrics = call(state, batch)
                        if i % 4 == 3:  # devices that are one processor's threads must not run far ahead
                            jax.block_until_ready(metrics)
                    jax.block_until_ready(state)
                    print(time.perf_counter() - begun, file=answers, flush=True)
                if asked != LOOP:
                    os._exit(0)
                begun = time.perf_counter()
            done += 1
            return call(state, batch)

        return step

    programs._compile = paused
    with tempfile.TemporaryDirectory() as folder:
        jaxfer.run(config, folder, quiet=True)


def compare(trees: tuple[Path, Path], name: str, rounds: int, calls: int) -> dict[str, np.ndarray]:
    """{what: seconds of a step [rounds, 2]}, of the checkouts in this order, which take turns to be first."""
    command = [sys.executable, __file__, "--calls", str(calls), "--train", name]
    pipes: dict[str, Any] = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    scratch = tempfile.TemporaryDirectory()  # of runs that are ended from outside
    pipes["env"] = {**os.environ, "TMPDIR": scratch.name}
    running = [subprocess.Popen([*command, str(tree)], **pipes) for tree in trees]

    def seconds(i: int, what: str) -> float:
        print(what, file=running[i].stdin, flush=True)
        if not (line := running[i].stdout.readline()):
            sys.exit(f"{trees[i]}: {name} ended with {running[i].wait()}")
        return float(line) / calls

    found = {}
    for what in (PROGRAM, LOOP):
        table = np.empty((rounds + 1, 2))
        for turn, row in enumerate(table):
            for i in (0, 1) if turn % 2 else (1, 0):
                row[i] = seconds(i, what)
        found[what] = table[1:]  # the first warms up
    for process in running:
        process.stdin.close()
        process.wait()
    scratch.cleanup()
    return found


def main() -> None:
    """Prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="the folder of another checkout")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="of the runs of tests/golden.py")
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--calls", type=int, default=50, help="steps in each round")
    parser.add_argument("--train", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train:
        return train(str(arguments.before), arguments.train, arguments.calls)
    if not (arguments.before / "tests" / "golden.py").is_file():
        parser.error(f"{arguments.before}: expected another checkout with tests/golden.py")
    trees = arguments.before.resolve(), HERE
    os.chdir(HERE)
    sys.path.insert(0, str(HERE))
    from tests.golden import configs

    known = list(configs())
    if unknown := set(arguments.only or ()) - set(known):
        parser.error(f"no such run: {'; '.join(sorted(unknown))} (there are {'; '.join(known)})")
    print("| run | part | before, ms | now, ms | now / before | 95 % |")
    print("| --- | --- | ---: | ---: | ---: | --- |")
    for name in arguments.only or known:
        tables = compare(trees, name, arguments.rounds, arguments.calls)
        for what, table in tables.items():
            before, now = (1e3 * statistics.median(column) for column in table.T)
            ratios = table[:, 1] / table[:, 0]
            low, high = bootstrap(
                (ratios,), np.median, n_resamples=2000, method="percentile", rng=0
            ).confidence_interval
            row = f"| {name} | {what} | {before:.2f} | {now:.2f} | {np.median(ratios):.3f} | {low:.3f} to {high:.3f} |"
            print(row, flush=True)


if __name__ == "__main__":
    main()
