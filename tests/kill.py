"""Kill a run at random moments: resumed, it must end as if nothing had happened.

    python tests/kill.py --tries 50 --seed 0
    python tests/kill.py --tries 18 --runs texts,streams
    python tests/kill.py --tries 5 --processes 4 --kills 1

Every try starts `jaxfer run` on a config of `killed.py`, each of `--runs` in turn, kills it up to `--kills` times, runs
the same command until it ends by itself, and compares with an uninterrupted run, bit for bit and times aside: every
leaf of the result's and of the last checkpoint, metrics.jsonl, result.json, ledger.json, params.txt, config.json. Most
kills are SIGKILLs: anywhere in the training, in a save, between the stages, in the start; some are SIGTERMs. The exit
code is 1 where anything differs.

With several processes (of two devices each) one of them is killed, and the others must end by themselves within a
minute, each with a line that says why; then all are started again. Of the kinds of kills, those before they have found
each other are left out, and of the runs all but `images`.

To be quick the tries of a run share a cache of compiled programs. The uninterrupted run finds it empty and fills it, so
that a program out of the cache that computed anything else would show. Only `images` in one process is optimised as
users' runs are: the others would compile for most of the time. Stored features lie in that cache too; a try begins
without any. `grid` is a sweep whose cells are trained together: each must end as it would have.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.flags import UNOPTIMISED
from tests.killed import RUNS, SWEEPS, get_config

KINDS = ("training", "save", "boundary", "sigterm", "training", "start")
CONFIG = Path(__file__).with_name("killed.py").resolve()
_reading = threading.Lock()  # reading a checkpoint changes hooks of the whole process


@dataclasses.dataclass(frozen=True)
class Ending:
    """What an ended run leaves, times aside: {file or checkpoint: {name: value}}."""

    found: dict[str, dict[str, Any]]

    def differences(self, other: Ending) -> list[str]:
        """Where the two differ, one line each."""
        lines = []
        for part, ours in self.found.items():
            theirs = other.found.get(part, {})
            names = [n for n in dict.fromkeys([*ours, *theirs]) if n not in ours or ours[n] != theirs.get(n)]
            lines += [f"{part}: {n}: {_short(ours.get(n))} uninterrupted, {_short(theirs.get(n))} here" for n in names]
        return lines


class Sitting:
    """The processes of a run, from a start to its end.

    Args:
      folder: the run's.
      cache: of compiled programs; None for none.
      python: what follows `python` to start it.
      processes: how many.
      arguments: more of the command line.
      environments: of each process, in place of `processes` and of the flags that say who they are.
      run: the argument of the config.
    """

    def __init__(
        self,
        folder: Path,
        cache: Path | None = None,
        python: Sequence[str] = ("-m", "jaxfer"),
        processes: int = 1,
        arguments: Sequence[str] = (),
        environments: Sequence[dict[str, str]] = (),
        run: str = "images",
    ):
        self.folder, self.begun = folder, time.time_ns()
        self._said = folder.with_name(f"{folder.name}.{self.begun}.stderr")  # a pipe could fill up and hold the run
        several = processes > 1 or bool(environments)
        flags = ["--xla_force_host_platform_device_count=2"] * several + [UNOPTIMISED] * (several or run != "images")
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": " ".join(flags)}
        environment["JAXFER_CACHE"] = str(cache or "off")
        environment["JAXFER_GRACE"] = "8"  # `signal` gives it 10 seconds
        environment["PYTHONPATH"] = os.pathsep.join([str(CONFIG.parents[1]), os.environ.get("PYTHONPATH", "")])
        config = ("sweep", str(CONFIG.with_name(f"killed_{run}.py"))) if run in SWEEPS else ("run", f"{CONFIG}:{run}")
        command = [sys.executable, *python, *config, "--workdir", str(folder), *arguments]
        if processes > 1:
            command += [f"--coordinator=127.0.0.1:{_free_port()}", f"--num_processes={processes}"]
        self.processes = []
        with self._said.open("w") as log:
            for i, own in enumerate(environments or [{}] * processes):
                ours = [*command, f"--process_id={i}"] if processes > 1 else command
                environ = {**environment, **own}
                self.processes.append(subprocess.Popen(ours, stdout=subprocess.DEVNULL, stderr=log, env=environ))
        self.process = self.processes[0]

    def wait(self) -> int:
        """The exit code, once all have ended; of several the first that is not 0."""
        return next(filter(None, [process.wait(300) for process in self.processes]), 0)

    def signal(self, number: int, victim: int = 0) -> int:
        """Sends a signal to one; its exit code, or that of another which it should not have had.

        A SIGTERM must have worked within 10 seconds, a SIGKILL does at once; others may take a minute to learn of it.
        """
        self.processes[victim].send_signal(number)
        codes = [process.wait(60 if len(self.processes) > 1 else 10) for process in self.processes]
        # 0: it was done. -6: JAX itself ends a process that learns of process 0's death before we do.
        aborted = (-signal.SIGABRT,) if victim == 0 else ()
        fitting = (0, 75, *aborted) if number == signal.SIGKILL else (codes[victim],)
        others = codes[:victim] + codes[victim + 1 :]
        return next((code for code in others if code not in fitting), codes[victim])

    @property
    def said(self) -> str:
        """Its standard error."""
        return self._said.read_text()

    def explained(self) -> bool:
        """Whether each of several processes that did not end well has left a line that says so."""
        failed = sum(process.returncode != 0 for process in self.processes)
        until = time.monotonic() + 10  # some are spoken for, by a process that must first see them end
        while (told := self.said.count(" of this run ")) < failed and time.monotonic() < until:
            time.sleep(0.1)
        return told >= failed

    def until(self, event: Callable[[], bool]) -> bool:
        """Waits for an event; False if the process ended before."""
        while self.process.poll() is None:
            if event():
                return True
            time.sleep(0.001)
        return False

    def training(self) -> bool:
        """Whether it has begun to train: it has opened metrics.jsonl, which it does once it has its State."""
        path = _first(self.folder) / "metrics.jsonl"
        return path.exists() and path.stat().st_mtime_ns > self.begun

    def past(self, step: int) -> Callable[[], bool]:
        """Asks whether metrics.jsonl has a line later than this step."""
        from jaxfer.runs.metrics import read_metrics

        return lambda: any(line["step"] > step for line in read_metrics(_first(self.folder) / "metrics.jsonl"))

    def saving(self) -> bool:
        """Whether a save is under way."""
        path = _first(self.folder) / "checkpoints"
        return path.exists() and any("tmp" in name for name in os.listdir(path))


@dataclasses.dataclass(frozen=True)
class Uninterrupted:
    """A run that nothing stopped, to compare with.

    Attributes:
      run: its name, a key of RUNS.
      stages: steps of each.
      ending: what it left.
      start: seconds until it trained.
      boundary: seconds from the first stage to the first line of the second.
    """

    run: str
    stages: tuple[int, ...]
    ending: Ending
    start: float
    boundary: float


def uninterrupted(folder: Path, cache: Path | None = None, run: str = "images", processes: int = 1) -> Uninterrupted:
    """Runs it once, undisturbed; before it, beside its folder, the run that it starts from, if any."""
    config = get_config(run)
    stages = tuple(config.stage[name].steps for name in config.stages)
    kind, _, source = config.init.partition(":")
    if kind == "sibling" and (first := Sitting(folder.with_name(source), run=source)).wait():
        raise SystemExit(f"the run {source} failed:\n{first.said}")
    times, sitting = [time.monotonic()], Sitting(folder, cache, processes=processes, run=run)
    for event in (sitting.training, sitting.past(stages[0] - 1), sitting.past(stages[0])):
        sitting.until(event)
        times.append(time.monotonic())
    if sitting.wait():
        raise SystemExit(f"the uninterrupted run failed:\n{sitting.said}")
    return Uninterrupted(run, stages, ending(folder), start=times[1] - times[0], boundary=times[3] - times[2])


def attempt(
    kind: str, folder: Path, cache: Path, reference: Uninterrupted, *, seed: int, kills: int = 3, processes: int = 1
) -> tuple[list[str], list[str]]:
    """One try with at most so many kills: (where it was killed, what is wrong with how it ended)."""
    rng, places, wrong = random.Random(f"{kind} {seed}"), [], []
    kills, kill = min(kills, rng.choice((1, 1, 2, 3))), signal.SIGTERM if kind == "sigterm" else signal.SIGKILL
    shutil.rmtree(cache / "features", ignore_errors=True)
    while True:
        sitting = Sitting(folder, cache, processes=processes, run=reference.run)
        if len(places) < kills and _moment(kind, sitting, reference, rng):
            saving = sitting.training() and sitting.saving()
            code = sitting.signal(kill, rng.randrange(processes))
            places.append(_place(folder) + (", in a save" if saving else ""))
        else:
            code = sitting.wait()
        # No kill tears a checkpoint: it has its name only once it is whole.
        if "Traceback" in sitting.said or "warning:" in sitting.said:
            wrong.append(f"a sitting said: {sitting.said.strip()[-600:]}")
        if code == -signal.SIGKILL and processes > 1 and not sitting.explained():
            wrong.append(f"not every process said why it ended: {sitting.said.strip()[-600:]}")
        if code == 0:
            return places, wrong + reference.ending.differences(ending(folder))
        if code not in (-signal.SIGKILL, 75 if kill == signal.SIGTERM else None):
            errors = [error.read_text().strip()[-600:] for error in (folder / "cells").glob("*/error.txt")]
            return places, [*wrong, f"exit code {code}: {sitting.said.strip()[-300:]}", *errors]


def _moment(kind: str, sitting: Sitting, reference: Uninterrupted, rng: random.Random) -> bool:
    """Waits for the moment to kill; False if the run ended before it came."""
    somewhere = sitting.past(rng.randrange(sum(reference.stages)))
    events, longest = {
        "start": ([], reference.start),
        "training": ([sitting.training, somewhere], 0.2),
        "sigterm": ([sitting.training, somewhere], 0.2),
        "save": ([sitting.training, somewhere, sitting.saving], 0.05),
        "boundary": ([sitting.training, sitting.past(reference.stages[0] - 1)], reference.boundary * 1.1),
    }[kind]
    alive = all(sitting.until(event) for event in events)
    time.sleep(rng.uniform(0, longest))
    return alive and sitting.process.poll() is None


def _first(folder: Path) -> Path:
    """The folder of a run; of a sweep's, the first one's."""
    return min((folder / "cells").glob("*/"), default=folder)


def _place(folder: Path) -> str:
    from jaxfer.runs.metrics import read_metrics

    folder = _first(folder)
    if not (folder / "metrics.jsonl").exists():
        return "before training"
    lines = read_metrics(folder / "metrics.jsonl")
    return f"after line {lines[-1]['step']} ({lines[-1]['stage']})" if lines else "before the first line"


def ending(folder: Path) -> Ending:
    """Reads an ended run, or every run of an ended sweep."""
    if cells := sorted((folder / "cells").glob("*/")):
        parts = {cell.name: ending(cell).found for cell in cells}
        return Ending({f"{name}: {part}": values for name, found in parts.items() for part, values in found.items()})
    import jax
    import numpy as np

    from jaxfer.runs.checkpoint import SAVED
    from jaxfer.runs.finished import open_run
    from jaxfer.runs.metrics import read_metrics

    result = json.loads((folder / "result.json").read_text())
    found: dict[str, dict[str, Any]] = {
        "metrics.jsonl": _lines(map(_timeless, read_metrics(folder / "metrics.jsonl"))),
        "result.json": _timeless(result),
    }
    for name in ("config.json", "ledger.json", "params.txt"):
        found[name] = _lines((folder / name).read_text().splitlines())
    for checkpoint in ("last",) if result["checkpoint_step"] == result["steps"] else ("last", "result"):
        with _reading:
            state = open_run(folder, checkpoint).state
        tree = {name: getattr(state, name) for name in SAVED}
        found[f"{checkpoint} checkpoint"] = {
            jax.tree_util.keystr(path): (str(leaf.dtype), leaf.shape, np.asarray(leaf).tobytes())
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        }
    return Ending(found)


def _lines(lines: Iterable[Any]) -> dict[str, Any]:
    return {f"line {i}": line for i, line in enumerate(lines)}


def _timeless(value: Any) -> Any:
    from jaxfer.runs.metrics import TIMES

    return {k: _timeless(v) for k, v in value.items() if k not in TIMES} if isinstance(value, dict) else value


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _short(value: Any) -> str:
    text = value[2].hex() if isinstance(value, tuple) else str(value)
    return text if len(text) < 60 else text[:57] + "..."


def tries(run: str, numbers: range, folder: Path, *, seed: int, processes: int, kills: int) -> Counter[str]:
    """The tries of these numbers, all of one run, a line each; how many there were, how many kills, how many differ."""
    kinds = [kind for kind in KINDS if processes == 1 or kind != "start"]
    cache, count = folder / f"cache_{run}", Counter()
    reference = uninterrupted(folder / f"uninterrupted_{run}", cache, run, processes) if numbers else None
    for turn, number in enumerate(numbers):
        kind, place = kinds[(turn + numbers.start) % len(kinds)], folder / f"try_{number}"
        several = dict(seed=seed * 1_000_003 + number, processes=processes, kills=kills)
        places, wrong = attempt(kind, place, cache, reference, **several)
        count.update(tries=1, kills=len(places), differ=int(bool(wrong)))
        verdict = "\n    ".join(["DIFFERS", *wrong]) if wrong else "same"
        # In one piece: another run's tries write meanwhile.
        sys.stdout.write(f"try {number} ({run}, {kind}): killed {'; '.join(places) or 'never'}: {verdict}\n")
        sys.stdout.flush()
        shutil.rmtree(place)
    return count


def main() -> int:
    """Tries, two runs at a time; 1 where a killed run ended otherwise than the uninterrupted one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tries", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--runs", default="", help=f"some of {','.join(RUNS)}; default: all, of one process")
    arguments = parser.parse_args()
    known = list(RUNS) if arguments.processes == 1 else ["images"]
    runs = list(dict.fromkeys(arguments.runs.split(","))) if arguments.runs else known
    if unknown := [run for run in runs if run not in known]:
        parser.error(f"--runs: expected some of {', '.join(known)}, found {unknown[0]!r}")
    several, begun = dict(seed=arguments.seed, processes=arguments.processes, kills=arguments.kills), time.monotonic()
    with tempfile.TemporaryDirectory() as directory, ThreadPoolExecutor(2) as pool:
        numbers = [range(first, arguments.tries, len(runs)) for first in range(len(runs))]
        counts = list(pool.map(lambda run, own: tries(run, own, Path(directory), **several), runs, numbers))
    for run, count in zip(runs, counts, strict=True):
        print(f"{run}: {count['tries']} tries, {count['kills']} kills, {count['differ']} differ")
    print(f"{time.monotonic() - begun:.0f} s")
    return 1 if sum(counts, Counter())["differ"] else 0


if __name__ == "__main__":
    sys.exit(main())
