"""What takes eight devices, in a process that has them: a mesh of three axes, and a run that moves among 1, 2, 4, 8."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

MESHES = (
    *({"devices": 8}, {"devices": 1}, {"devices": 8, "mode": "fsdp"}, {"devices": 2}, {"devices": 4, "tensor": 2}),
    *({"devices": 8, "fsdp": 2, "tensor": 2}, {"devices": 4, "mode": "fsdp"}, {"devices": 8}),
)
MODEL = dict(name="vit", patch=3, width=16, layers=1, heads=2, mlp_width=24, image=(6, 9, 3), dropout=0.2)


@pytest.mark.system
def test_eight_devices(tmp_path):
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"  # the last one counts
    command = [sys.executable, "-c", "import sys; from tests.test_eight_devices import main; main(sys.argv[1])"]
    done = subprocess.run([*command, str(tmp_path)], env={**os.environ, "XLA_FLAGS": flags}, stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr.decode()[-4000:]


def main(folder):
    """The run under `folder` is stopped after every step and goes on elsewhere; its losses are one device's."""
    from pathlib import Path

    import jax

    import jaxfer
    from jaxfer.runs.metrics import read_metrics
    from jaxfer.training import loop
    from tests.experiments import tiny_config
    from tests.training.test_resume import Asked

    assert jax.device_count() == 8
    for name, meshes in (("whole", ({"devices": 1},)), ("parts", MESHES)):
        for mesh in meshes:
            config = tiny_config("vit_cls", model=MODEL, steps=len(MESHES), log_every=1, batch_size=16)
            config.parallel.update(mesh)
            with pytest.MonkeyPatch.context() as patch:
                if mesh is not meshes[-1]:
                    patch.setattr(loop, "preemption_notice", lambda: Asked(1))
                try:
                    jaxfer.run(config, Path(folder, name), quiet=True)
                    assert mesh is meshes[-1]
                except SystemExit as stopped:
                    assert stopped.code == 75
    whole, parts = (read_metrics(Path(folder, name, "metrics.jsonl")) for name in ("whole", "parts"))
    assert [(line["step"], line["split"]) for line in parts] == [(line["step"], line["split"]) for line in whole]
    for ours, theirs in zip(whole, parts, strict=True):
        assert abs(theirs["loss"] - ours["loss"]) <= 1e-5, (ours, theirs)
