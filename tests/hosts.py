"""Several processes on this machine against one: `python tests/hosts.py`, about three minutes on two cores.

2 and 4 processes (`--processes`: the most) of two devices each, joined over the loopback, must train what one process
trains, as `fsdp` too, from another run's weights, and with SLURM's variables in place of flags: losses and metrics
within 1e-5. A run stopped on 4 goes on with 2, which fall back together where a checkpoint is torn, and then with 1.
Configs or weights that differ stop all processes with the same line; what one of them can't read stops all, with that
line and exit code 2. The exit code is 1 where anything is otherwise.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from kill import CONFIG, Sitting, _free_port

from jaxfer.files import read_json
from jaxfer.runs.metrics import read_metrics

TOLERANCE = 1e-5


def run(folder: Path, processes: int, *arguments: str) -> Path:
    """Until it ends, well."""
    sitting = Sitting(folder, folder.parent / "cache", processes=processes, arguments=arguments)
    if code := sitting.wait():
        raise SystemExit(f"{processes} processes ended with {code}:\n{sitting.said[-2000:]}")
    return folder


def worst(ours: Path, theirs: Path) -> float:
    """The largest difference between the logged metrics of two runs of as many lines, of those above 1 relative."""
    lines, others = read_metrics(ours / "metrics.jsonl"), read_metrics(theirs / "metrics.jsonl")
    assert [(line["step"], line["split"]) for line in lines] == [(line["step"], line["split"]) for line in others]
    numbers = [
        (line[name], other[name])
        for line, other in zip(lines, others, strict=True)
        for name in line
        if isinstance(line[name], float) and name != "seconds"
    ]
    differences = [abs(a - b) / max(1, abs(a)) for a, b in numbers]
    return math.inf if any(map(math.isnan, differences)) else max(differences)


def main() -> int:
    """One line for each thing shown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=4, help="the most; 2 or 4")
    wrong, most = 0, parser.parse_args().processes

    def show(what: str, fine: bool, found: object) -> None:
        nonlocal wrong
        wrong += not fine
        print(f"{what}: {found}{'' if fine else '  WRONG'}", flush=True)

    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        one = run(root / "one", 1)
        for processes, mode in dict.fromkeys(((2, "jit"), (most, "jit"), (most, "fsdp"))):
            found = worst(one, run(root / f"{mode}{processes}", processes, f"--config.parallel.mode={mode}"))
            show(f"{processes} processes, {mode}: worst difference to one", found < TOLERANCE, found)
        found = worst(one, as_srun_does(root / "slurm"))
        show("2 processes, joined by SLURM's variables: worst difference to one", found < TOLERANCE, found)
        moved = root / "moved"
        for processes, past in ((most, 10), (2, 40)):
            sitting = Sitting(moved, root / "cache", processes=processes, arguments=["--config.parallel.mode=fsdp"])
            sitting.until(sitting.past(past))
            code = sitting.signal(signal.SIGTERM, victim=processes - 1)
            show(f"SIGTERM to one of {processes}, all end with", code == 75, code)
            if past == 10:
                cut(moved)
            else:
                show("torn, all fall back and one says so", sitting.said.count("; falling back to step ") == 1, "once")
        found = worst(one, run(moved, 1))
        show(f"stopped on {most}, on 2, ended on 1: worst difference", found < TOLERANCE, found)
        show("steps", read_json(moved / "result.json")["steps"] == read_json(one / "result.json")["steps"], "as one")
        # DELTA's network of the start, its norms too, stays in the state that is split.
        other = f"--config.init=run:{one}", "--config.stage.probe.steps=9", "--config.stage.probe.method=delta"
        started = {
            n: run(root / f"from{n}", n, f"--config.parallel.mode={mode}", *other)
            for n, mode in ((1, "jit"), (2, "fsdp"))
        }
        found = worst(*started.values())
        show("2 processes, fsdp, from another run: worst difference to one", found < TOLERANCE, found)
        said = together(root / "differing", *(f"--config.stage.tune.lr=0.0{i}" for i in (1, 2)))
        show("differing configs", len(set(said)) == 1 and "lr" in said[0] and "Traceback" not in said[0], said[0])
        for folder, weights in (("a", one), ("b", started[1])):
            (root / folder).mkdir()
            (root / folder / "weights").symlink_to(weights)
        said = together(root / "other", *["--config.init=run:weights"] * 2, within=(root / "a", root / "b"))
        show("weights of the same name", len(set(said)) == 1 and "weights that config.init reads" in said[0], said[0])
        said = together(root / "absent", configs=(CONFIG, root / "absent.py"))
        show("one has no config", len(set(said)) == 2 and "absent.py" in said[0] and "absent.py" in said[1], said)
    return 1 if wrong else 0


def as_srun_does(folder: Path) -> Path:
    """Two processes that are told of each other by what srun would tell them, until they end, well."""
    job = next(
        job for job in range(os.getpid(), os.getpid() + 100) if _is_free(61440 + job % 4096)
    )  # JAX's port for it
    shared = dict(SLURM_JOB_ID=str(job), SLURM_STEP_NODELIST="localhost", SLURM_NTASKS="2")
    sitting = Sitting(
        folder,
        folder.parent / "cache",
        arguments=["--config.parallel.mode=jit"],
        environments=[{**shared, "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)} for i in range(2)],
    )
    if code := sitting.wait():
        raise SystemExit(f"2 processes under SLURM ended with {code}:\n{sitting.said[-2000:]}")
    return folder


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def cut(folder: Path) -> None:
    """Halves the values of a run's newest checkpoint."""
    newest = max(
        (path for path in (folder / "checkpoints").iterdir() if path.name.isdigit()), key=lambda p: int(p.name)
    )
    values = max((path for path in newest.glob("state/**/d/*")), key=lambda path: path.stat().st_size)
    values.write_bytes(values.read_bytes()[: values.stat().st_size // 2])


def together(
    folder: Path,
    *flags: str,
    configs: Sequence[Path] = (CONFIG,) * 2,
    within: Sequence[Path] = (Path(), Path()),
) -> list[str]:
    """What two processes say last that are given a flag, a config or a place each; and their exit codes, if not 2."""
    environment = dict(JAX_PLATFORMS="cpu", XLA_FLAGS="--xla_force_host_platform_device_count=2", JAXFER_CACHE="off")
    shared = [f"--workdir={folder}", f"--coordinator=127.0.0.1:{_free_port()}", "--num_processes=2"]
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "jaxfer", "run", str(config), *shared, f"--process_id={i}", *flags[i : i + 1]],
            env={**os.environ, **environment},
            cwd=within[i],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        for i, config in enumerate(configs)
    ]
    said = [process.communicate(timeout=300)[1].strip().splitlines()[-1] for process in both]
    return [*said, *(f"exit code {process.returncode}" for process in both if process.returncode != 2)]


if __name__ == "__main__":
    sys.exit(main())
