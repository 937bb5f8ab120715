"""The command line's options of `--executor=slurm`, as parameters of submitit's executors."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import submitit

from jaxfer.errors import InputError, nearest

CLUSTERS = ("slurm", "local", "debug")
WARNING = 90  # seconds before its end in which a job is asked to save; a quarter of a shorter --time
YEAR = 365 * 24 * 60  # minutes: submitit ends a local job after 2 unless told otherwise
# What `--slurm` can't set, and what to do.
TAKEN = {
    "cpus_per_task": "use --cpus instead",
    **dict.fromkeys(("gpus_per_node", "num_gpus"), "use --gpus instead"),
    **dict.fromkeys(("array", "array_parallelism"), "use --jobs instead"),
    **{name: f"use --{name} instead" for name in ("partition", "time", "mem", "cluster")},
    **dict.fromkeys(("nodes", "ntasks", "ntasks_per_node"), "leave it out, a job is one process on one node"),
    **dict.fromkeys(("requeue", "no_requeue", "signal"), "leave it out, jaxfer submits jobs again by itself"),
    **dict.fromkeys(("clusters", "output", "error", "open_mode"), "leave it out, jaxfer follows its jobs by it"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """As given on the command line; `InputError` for a value that no cluster takes.

    Attributes:
      cluster: `slurm`; `local`: processes of this machine; `debug`: this process.
      jobs: at most so many at once.
      partition: SLURM's.
      time: minutes of a job; None: as the partition says.
      cpus: of each job.
      gpus: of each job.
      mem: of each job, as sbatch takes it, such as `8G`.
      slurm: `KEY=VALUE,...` for other options of sbatch or parameters of submitit.
    """

    cluster: str = "slurm"
    jobs: int | None = None
    partition: str | None = None
    time: int | None = None
    cpus: float | None = None
    gpus: float | None = None
    mem: str | None = None
    slurm: str | Sequence[str] = ()

    def __post_init__(self):
        if self.cluster not in CLUSTERS:
            raise InputError(f"--cluster={self.cluster}: no such cluster{nearest(self.cluster, CLUSTERS)}")
        for name, least in {"jobs": 1, "time": 1, "cpus": 1, "gpus": 0}.items():
            value = getattr(self, name)
            if value is not None and not (isinstance(value, (int, float)) and value >= least and value == int(value)):
                raise InputError(f"--{name}: expected a whole number of at least {least}, found {value}")
        if self.mem is not None and not re.fullmatch(r"\d+[KMGT]?", str(self.mem)):
            raise InputError(f"--mem: expected megabytes, or a number and K, M, G or T such as 8G, found {self.mem}")
        self.others()

    def others(self) -> dict[str, Any]:
        """What `--slurm` says, by name; `setup` as a list of the shell's lines."""
        found: dict[str, Any] = {}
        for text in [self.slurm] if isinstance(self.slurm, str) else self.slurm:
            # A shell's line goes to the end. A comma inside another value is followed by no KEY=.
            parts = [text] if text.startswith("setup=") else re.split(r",(?=[A-Za-z_-]+=)", text)
            for part in parts:
                key, equals, value = part.partition("=")
                name = key.removeprefix("--").replace("-", "_")
                if not (name and equals and value):
                    raise InputError(f"--slurm: expected KEY=VALUE,... such as account=me,qos=long, found {text!r}")
                if name in TAKEN:
                    raise InputError(f"--slurm={name}: {TAKEN[name]}")
                if name == "setup":
                    found.setdefault(name, []).append(value)
                else:
                    found[name] = {"true": True, "false": False}.get(value, int(value) if value.isdecimal() else value)
        return found

    def parameters(self) -> dict[str, Any]:
        """Of submitit's executor."""
        others = self.others()
        warning = others.pop("signal_delay_s", min(WARNING, 15 * int(self.time or YEAR)))
        if self.cluster != "slurm":
            local = {"timeout_min": int(self.time or YEAR), "gpus_per_node": int(self.gpus or 0)}
            return {**local, "signal_delay_s": warning, "setup": others.get("setup", ())}
        known = {name: value for name, value in others.items() if name in submitit.SlurmExecutor._valid_parameters()}
        more = {name.replace("_", "-"): value for name, value in others.items() if name not in known}
        # This executor submits again what was preempted: SLURM would start the same job beside its successor.
        more |= {"signal": f"TERM@{warning}", "no-requeue": True}
        whole = {"cpus_per_task": self.cpus, "gpus_per_node": self.gpus, "time": self.time}
        return {
            "job_name": "jaxfer",
            "partition": self.partition,
            "mem": None if self.mem is None else str(self.mem),
            **{name: None if value is None else int(value) for name, value in whole.items()},
            # Since SLURM 22.05 srun does not take it from sbatch.
            "srun_args": None if self.cpus is None else [f"--cpus-per-task={int(self.cpus)}"],
            **known,
            "additional_parameters": more,
        }
