"""The launch scripts against stand-ins for the clusters' commands, and the manifest against what it must hold."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from pathlib import Path

import pytest
import yaml

LAUNCH = Path(__file__).parents[1] / "experiments" / "launch"


@pytest.fixture
def cluster(tmp_path):
    """Runs a script where some commands are stand-ins that log how they are called; returns (exit code, calls)."""

    def run(script, arguments=(), *, commands, **environment):
        tools = tmp_path / "bin"
        tools.mkdir()
        for name, body in commands.items():
            (tools / name).write_text(f'#!/usr/bin/env bash\necho "{name} $*" >> {tmp_path}/calls\n{body}\n')
            (tools / name).chmod(stat.S_IRWXU)
        environment = {"PATH": f"{tools}:{os.environ['PATH']}", "HOME": str(tmp_path), **environment}
        done = subprocess.run(["bash", LAUNCH / script, *arguments], env=environment, capture_output=True, timeout=60)
        return done.returncode, (tmp_path / "calls").read_text().splitlines()

    return run


def answers(tmp_path, *codes):
    """A command's body that ends with these exit codes in turn."""
    (tmp_path / "codes").write_text("".join(f"{code}\n" for code in codes))
    return f'code=$(head -n 1 {tmp_path}/codes); sed -i 1d {tmp_path}/codes; exit "$code"'


@pytest.mark.parametrize("script", sorted(file.name for file in LAUNCH.glob("*.sh")))
def test_syntax(script):
    subprocess.run(["bash", "-n", LAUNCH / script], check=True)
    assert os.access(LAUNCH / script, os.X_OK)


LATER = "4000000000"  # in 2096


@pytest.mark.parametrize(
    ("codes", "end", "exit_code", "starts", "requeued"),
    [
        ((0,), LATER, 0, 1, False),
        ((75, 75, 0), LATER, 0, 3, False),
        ((75, 3), LATER, 3, 2, False),
        ((134, 0), LATER, 0, 2, False),
        ((2,), LATER, 2, 1, False),
        ((134,) * 9, LATER, 134, 5, False),
        ((75,), "0", 0, 1, True),
    ],
)
def test_slurm_starts_again_while_there_is_time_and_requeues_when_there_is_none(
    tmp_path, cluster, codes, end, exit_code, starts, requeued
):
    found, calls = cluster(
        "slurm.sh",
        ["c.py", "--workdir=runs/a b"],
        commands={"srun": answers(tmp_path, *codes), "scontrol": ""},
        SLURM_JOB_ID="17",
        SLURM_JOB_END_TIME=end,
    )
    step = "srun --kill-on-bad-exit=0 --wait=300 .venv/bin/jaxfer run c.py --workdir=runs/a b"
    assert (found, calls) == (exit_code, [step] * starts + ["scontrol requeue 17"] * requeued)


def test_slurm_asks_for_a_process_a_gpu_and_for_a_sigterm_before_the_end():
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)=?(.*)$", (LAUNCH / "slurm.sh").read_text(), re.MULTILINE))
    assert options["ntasks-per-node"] == options["gpus-per-node"]
    assert options["signal"] == "TERM@120", "to the processes, not to the script (B:)"
    assert {"requeue", "open-mode"} <= options.keys()
    assert "gpus-per-task" not in options


# A slice: the file `state` is what `describe` says of it; asked for the exit code it gives the next one, or is gone.
SLICE = """
case "$4" in
  describe) cat {0}/state 2>/dev/null ;;
  create) echo READY > {0}/state ;;
  delete) rm -f {0}/state ;;
  ssh)
    if [[ "$*" == *"cat jaxfer"* ]]; then
      code=$(head -n 1 {0}/codes); sed -i 1d {0}/codes
      if [ "$code" = gone ]; then echo PREEMPTED > {0}/state; exit 255; fi
      echo "$code"
    fi ;;
esac
"""


@pytest.mark.parametrize(
    ("codes", "exit_code", "words"),
    [
        ((0,), 0, "create scp install run ask delete"),
        ((75, 3), 3, "create scp install run ask run ask delete"),
        (("gone", 0), 0, "create scp install run ask delete create scp install run ask delete"),
        ((75,) * 9, 75, f"create scp install {'run ask ' * 5}delete"),
    ],
)
def test_a_tpu_slice_is_made_used_until_the_end_and_deleted(tmp_path, cluster, codes, exit_code, words):
    answers(tmp_path, *codes)
    found, calls = cluster(
        "tpu_vm.sh", ["c.py", "--workdir=gs://b/a b"], commands={"gcloud": SLICE.format(tmp_path), "git": ""}, ZONE="z"
    )
    kinds = {"pip install": "install", "jaxfer run c.py --workdir=gs://b/a\\ b": "run", "cat jaxfer/exit_code": "ask"}
    done = []
    for call in (call for call in calls if call.startswith("gcloud compute tpus tpu-vm")):
        verb = call.split()[4]
        done.append(next((kind for part, kind in kinds.items() if part in call), verb))
    assert (found, " ".join(word for word in done if word != "describe")) == (exit_code, words)


def test_a_tpu_slice_needs_a_zone():
    environment = {"PATH": os.environ["PATH"]}
    done = subprocess.run(["bash", LAUNCH / "tpu_vm.sh", "c.py"], env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    assert "set ZONE to where the slice shall be" in done.stderr


def test_jobset():
    text = (LAUNCH / "jobset.yaml").read_text()
    values = {"IMAGE": "image", "BUCKET": "bucket", "CONFIG": "configs/a.py"}
    assert set(re.findall(r"\$\{(\w+)\}", text)) == values.keys()
    found = yaml.safe_load(re.sub(r"\$\{(\w+)\}", lambda name: values[name[1]], text))
    assert (found["apiVersion"], found["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    policy = found["spec"]["failurePolicy"]
    (rule,) = policy["rules"]
    assert (rule["action"], rule["onJobFailureReasons"]) == ("RestartJobSetAndIgnoreMaxRestarts", ["PodFailurePolicy"])
    assert policy["maxRestarts"] == 0
    (group,) = found["spec"]["replicatedJobs"]
    job = group["template"]["spec"]
    again, taken = job["podFailurePolicy"]["rules"]
    assert again["onExitCodes"] == {"containerName": "jaxfer", "operator": "In", "values": [75, 134]}
    assert taken["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert again["action"] == taken["action"] == "FailJob"
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never", "podFailurePolicy asks for it"
    (container,) = pod["containers"]
    assert container["name"] == again["onExitCodes"]["containerName"]
    assert container["command"] == ["jaxfer", "run", "configs/a.py", "--workdir=gs://bucket/jaxfer"]
    topology = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    rows, columns = map(int, topology.split("x"))
    chips = container["resources"]["limits"]["google.com/tpu"]
    assert container["resources"]["requests"] == {"google.com/tpu": chips}
    assert job["parallelism"] * chips == rows * columns == 16
    assert (job["completions"], job["completionMode"], job["backoffLimit"]) == (job["parallelism"], "Indexed", 0)
