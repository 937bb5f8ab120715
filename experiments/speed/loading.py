"""Memory of a start from a checkpoint of 354 million parameters, on one device and on eight.

    python experiments/speed/loading.py

A ViT of ViT-L's width with 28 blocks, 1.4 GB of float32 in one safetensors file and the same in bfloat16, is read,
converted and placed for a probe, each time in a new process. The eight devices are this machine's memory, as a CPU's
one is: what arrays on devices hold is taken off, to get what the host holds besides. What they held before stays off,
since a program that takes over its input's memory shows neither while it runs. Anonymous memory is sampled every 5 ms;
mapped pages of the file don't count, since the system takes them back when it needs them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}  # give back what is freed
SIZES = dict(width=1024, layers=28, heads=16, mlp_width=4096)


class Peak:
    """Within it, the largest memory over that at its start, in bytes: of the process, and without arrays on devices."""

    def __enter__(self) -> Peak:
        self.before, self.bytes, self.host, self.arrays, self._on = _anonymous(), 0, 0, 0, True
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def _sample(self) -> None:
        while self._on:
            self._look()
            time.sleep(0.005)

    def __exit__(self, *_: object) -> None:
        self._on = False
        self._thread.join()
        self._look()

    def _look(self) -> None:
        import jax

        now = _anonymous() - self.before
        self.arrays = max(self.arrays, sum(array.nbytes for array in jax.live_arrays()))
        self.bytes, self.host = max(self.bytes, now), max(self.host, now - self.arrays)


def _anonymous() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def write(folder: Path) -> None:
    """The checkpoint in both precisions, as transformers lays it out."""
    import jax
    import ml_dtypes
    import numpy as np
    from safetensors.numpy import save_file

    from jaxfer.pretrained.families import by_family
    from jaxfer.pretrained.layout import store
    from jaxfer.registry import MODELS

    port, layout = MODELS.make("vit", outputs=10, **SIZES), by_family("vit", "hf")
    example = {name: jax.numpy.zeros(x.shape, x.dtype) for name, x in port.example(1).items()}
    shapes = jax.eval_shape(port.init, jax.random.key(0), example)
    params, state = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.01, np.float32), shapes)
    tensors = {name: np.ascontiguousarray(x) for name, x in store(params, state, layout, port).items()}
    for name, dtype in (("float32", np.float32), ("bfloat16", ml_dtypes.bfloat16)):
        (folder / name).mkdir()
        config = layout.config(port, {}, tuple(f"class_{i}" for i in range(10)))
        (folder / name / "config.json").write_text(json.dumps(config))
        save_file({key: x.astype(dtype) for key, x in tensors.items()}, folder / name / "model.safetensors")


def start(checkpoint: Path, devices: int) -> None:
    """Prints what a start takes, as JSON."""
    import jax

    import jaxfer.config
    from jaxfer.training import lineage
    from jaxfer.training.first import entered
    from jaxfer.training.preflight import preflight

    config = jaxfer.config.base()
    config.model = dict(name="auto")
    config.data = dict(source="synthetic", image=(224, 224, 3), examples=32)
    config.update(init=str(checkpoint), head="reset", method="probe", batch_size=8, steps=2)
    config.parallel.update(mode="fsdp" if devices > 1 else "jit", devices=devices)
    ready = preflight(config)
    stage, folder = ready.stages[0], checkpoint / "run"
    with Peak() as peak:
        begun = lineage.begin(ready, folder)
        reading = peak.bytes
        run = {"experiment": ready.experiment, "data": ready.data, "where": ready.where, "folder": folder}
        state = entered(stage, begun.params, begun.model_state, begun.head, begun.former, **run)
        jax.block_until_ready(state)
    held: dict[int, int] = {}
    for leaf in jax.tree.leaves(state.params):
        for shard in leaf.addressable_shards:
            held[shard.device.id] = held.get(shard.device.id, 0) + shard.data.nbytes
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(state.params))
    print(
        json.dumps(
            {
                "file": (checkpoint / "model.safetensors").stat().st_size,
                "reading": reading,
                "start": peak.bytes,
                "whole": whole,
                "host": peak.host,
                "largest": max(held.values()),
            }
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", nargs=2, metavar=("FOLDER", "DEVICES"), help="one start, in this process")
    arguments = parser.parse_args()
    if arguments.start:
        return start(Path(arguments.start[0]), int(arguments.start[1]))
    columns = (
        "file, MB",
        "read, x parameters",
        "host, x parameters",
        "with devices, x parameters",
        "largest device, %",
    )
    with tempfile.TemporaryDirectory() as place:
        write(Path(place))
        print(f"| file | devices | {' | '.join(columns)} |\n| --- |{' ---: |' * (len(columns) + 1)}")
        for name in ("float32", "bfloat16"):
            for devices in (1, 8):
                flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
                command = [sys.executable, __file__, "--start", str(Path(place) / name), str(devices)]
                environment = {**os.environ, **AT_ONCE, "XLA_FLAGS": flags}
                done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
                found = json.loads(done.stdout.splitlines()[-1])
                shares = [f"{found[part] / found['whole']:.2f}" for part in ("reading", "host", "start")]
                share = f"{100 * found['largest'] / found['whole']:.1f}"
                cells = (name, devices, f"{found['file'] / 1e6:,.0f}", *shares, share)
                print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
