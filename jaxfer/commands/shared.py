"""Arguments and habits that several commands share."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxfer.errors import InputError, Preempted

if TYPE_CHECKING:
    from jaxfer.sweeps.executors import Executor

CONFIG = (
    "FILE.py or FILE.py:ARG, a name from `jaxfer configs`, or a run's config.json; override fields with "
    "--config.field=value"
)


def add_executor(parser: argparse.ArgumentParser) -> None:
    """`--executor` and the options of each."""
    parser.add_argument("--executor", help="what runs the cells: here (default), processes, ray or slurm")
    parser.add_argument("--processes", type=int, help="number of cells to run at a time (default 1)")
    parser.add_argument("--ray-address", help="HOST:PORT of a cluster; default RAY_ADDRESS, else one is started here")
    parser.add_argument("--cpus", type=float, help="ray: CPUs of each worker (default 1); slurm: of each job")
    parser.add_argument("--gpus", type=float, help="ray: GPUs of each worker, or a fraction; slurm: of each job")
    parser.add_argument("--jobs", type=int, help="slurm: jobs at once (default one for each group of cells, up to 256)")
    parser.add_argument("--partition", help="slurm: of the jobs")
    parser.add_argument("--time", type=int, metavar="MIN", help="slurm: minutes of a job; what isn't done is resumed")
    parser.add_argument("--mem", help="slurm: memory of a job, such as 8G")
    parser.add_argument("--slurm", action="append", metavar="KEY=VALUE,...", help="slurm: other options of sbatch")
    parser.add_argument("--cluster", help="slurm (default); local: processes of this machine; debug: this process")


def executor(arguments: argparse.Namespace) -> Executor:
    """As the command line asks for it."""
    from jaxfer.sweeps.executors import OPTIONS, make

    return make(arguments.executor, **{option: getattr(arguments, option) for option in OPTIONS})


def add_sampler(parser: argparse.ArgumentParser, chosen: str) -> None:
    """`--sampler`, which chooses `chosen`, and the options that sweeps and comparisons have in common."""
    parser.add_argument("--sampler", help=chosen)
    parser.add_argument("--sampler-seed", type=int, help="of the draws (default 0)")
    parser.add_argument("--algorithm", help="optuna: one of its samplers (default TPE)")
    parser.add_argument("--storage", help="optuna: URL of a database; default a journal in the work folder")
    parser.add_argument("--ask", type=int, help="optuna: trials drawn together, whatever runs them (default 4)")


def sampler_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What `make` of the command's samplers takes."""
    from jaxfer.sweeps.samplers import OPTIONS

    given = {name: getattr(arguments, name) for name in OPTIONS if hasattr(arguments, name)}
    return {"name": arguments.sampler, **given}


def add_nocache(parser: argparse.ArgumentParser) -> None:
    """`--nocache`."""
    parser.add_argument("--nocache", action="store_true", help="neither save nor load compiled programs")


def keep_programs(arguments: argparse.Namespace, *, say: bool = False) -> None:
    """Turns the cache of compiled programs on, unless `--nocache`; `say` prints where it is."""
    from jaxfer import terminal
    from jaxfer.training import compilation_cache

    compilation_cache.enable(None if arguments.nocache else compilation_cache.default())
    if say and compilation_cache.in_use():
        terminal.say(f"compiled programs are kept in {compilation_cache.in_use()} (--nocache disables it)", sys.stderr)


def resumable() -> None:
    """SIGTERM means `run me again` from the first moment: until the run itself listens, there is nothing to save."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: os._exit(Preempted.exit_code))


def spare_accelerators() -> None:
    """Keeps JAX from claiming a device, and its memory, for a command that only reads files beside a run."""
    if "jax" not in sys.modules:  # a process that computes already keeps its devices
        os.environ["JAX_PLATFORMS"] = "cpu"


def no_overrides(overrides: Mapping[str, str]) -> None:
    """`InputError` for the first override of a command that takes none."""
    for name in overrides:
        raise InputError(f"--config.{name}: a finished run's config is fixed; remove this override")


def add_place(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workdir", help="the folder of the run it is for: init=sibling:NAME is next to it")


def workdir(arguments: argparse.Namespace, name: str = "") -> str:
    """`--workdir`, or runs/CONFIG/NAME: siblings, for `init=sibling:NAME`; without a name that of `run`."""
    if arguments.workdir == "":  # an unset shell variable would otherwise train in the default folder
        raise InputError("--workdir: expected a folder, found ''; name one, or omit --workdir")
    if arguments.workdir is not None:
        return os.path.expanduser(arguments.workdir)  # `--workdir=~/x` reaches us unexpanded
    config, _, arg = arguments.config.partition(":")
    return str(Path("runs", Path(config).stem, name or arg.replace(",", "-") or "main"))


def numbers(metrics: Mapping[str, float], start: str = "") -> str:
    """Metrics with four decimals each, on one line where the terminal is wide enough."""
    from jaxfer import terminal

    parts = (f"{name} {value:.4f}" for name, value in metrics.items())
    return terminal.packed(parts, terminal.page_of(sys.stdout).width, start=start)
