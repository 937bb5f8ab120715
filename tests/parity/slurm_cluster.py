"""A SLURM cluster of this machine alone: munged, slurmctld and slurmd of this user, on ports of their own."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel")
CONFIG = """
ClusterName=jaxfer
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
KillWait=10
ReturnToService=2
NodeName=localhost NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=2000 State=UNKNOWN
PartitionName=main Nodes=localhost Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Why there can be none here; empty where it can."""
    lacking = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    return f"{', '.join(lacking)} not installed: apt-get install slurmctld slurmd munge" if lacking else ""


@contextlib.contextmanager
def running(folder: Path, cpus: int = 2) -> Iterator[dict[str, str]]:
    """A cluster that ends with the block; yields the variables by which commands find it."""
    folder.chmod(0o755)
    (folder / "state").mkdir()
    (folder / "spool").mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    with socket.socket() as first, socket.socket() as second:
        for free in (first, second):
            free.bind(("127.0.0.1", 0))
        ports = dict(controller=first.getsockname()[1], daemon=second.getsockname()[1])
    config = folder / "slurm.conf"
    config.write_text(CONFIG.format(folder=folder, user=pwd.getpwuid(os.getuid()).pw_name, cpus=cpus, **ports))
    variables = {**os.environ, "SLURM_CONF": str(config), "PATH": _path()}
    files = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
    commands = [
        ["munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *files],
        ["slurmctld", "-D", "-c"],
        ["slurmd", "-D", "-N", "localhost"],
    ]
    processes = []
    with open(folder / "log", "w") as log:
        try:
            for command in commands:
                processes.append(subprocess.Popen(command, env=variables, stdout=log, stderr=log))
                time.sleep(1)
            _wait_for_node(variables, folder / "log")
            yield variables
        finally:
            for process in reversed(processes):
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(20)
                process.kill()
                process.wait()


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def _wait_for_node(variables: dict[str, str], log: Path) -> None:
    until = time.monotonic() + 60
    command = ["sinfo", "--noheader", "--format=%T"]
    while subprocess.run(command, env=variables, capture_output=True, text=True).stdout.strip() != "idle":
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.5)
