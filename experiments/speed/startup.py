"""Compile time of a run's second start: each config runs twice in new processes, starting with an empty cache.

    python experiments/speed/startup.py                        # the three below, in minutes
    python experiments/speed/startup.py configs/digits.py:pretrain --config.steps=20

jaxfer run experiments/speed/startup.py:vit      # by hand: two steps of ViT-B/16 (`:resnet`: ResNet-50), synthetic

`result.json` gives the seconds of compiling (including tracing, or reading from the cache) and of waiting for input.
The whole process is measured in processor seconds, which depend less on other load.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import jaxfer.config

CONFIGS = ("configs/digits.py:tiny", f"{__file__}:vit", f"{__file__}:resnet")


def get_config(arg: str = "") -> Any:
    """arg: `vit` (ViT-B/16, the default) or `resnet` (ResNet-50): two steps of two images of 224 px."""
    words = jaxfer.config.words(arg, ("vit", "resnet"))
    config = jaxfer.config.base()
    config.model = dict(name="vit")
    if "resnet" in words:
        config.model = dict(name="resnet", stage_sizes=(3, 4, 6, 3), block="bottleneck")
    config.data = dict(source="synthetic", image=(224, 224, 3), examples=16)
    config.update(batch_size=2, eval_batch_size=2, steps=2)
    return config


def start(config: str, overrides: list[str], cache: Path) -> dict[str, float]:
    """One run in a process: its `compile_seconds` and `input_seconds`, and `processor_seconds` from start to end."""
    command = [sys.executable, "-m", "jaxfer", "run", config, *overrides]
    with tempfile.TemporaryDirectory() as folder:
        before = _processor_seconds()
        environment = {**os.environ, "JAXFER_CACHE": str(cache)}
        done = subprocess.run([*command, "--workdir", folder], env=environment, stdout=subprocess.DEVNULL)
        if done.returncode:
            sys.exit(done.returncode)
        cost = json.loads((Path(folder) / "result.json").read_text())["cost"]
    found = {name: cost[name] for name in ("compile_seconds", "input_seconds")}
    return {**found, "processor_seconds": _processor_seconds() - before}


def _processor_seconds() -> float:
    """Processor seconds of all finished child processes."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main(argv: list[str] | None = None) -> None:
    """Prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("configs", nargs="*", help="FILE.py or FILE.py:ARG; --config.field=value applies to every run")
    options, overrides = parser.parse_known_args(argv)
    print("| config | compiling, first start | second | second / first | processor, first start | second |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    waited = []
    for config in options.configs or CONFIGS:
        with tempfile.TemporaryDirectory() as cache:
            first, second = (start(config, overrides, Path(cache)) for _ in range(2))
        times = (f"{run['compile_seconds']:.2f} s" for run in (first, second))
        share = second["compile_seconds"] / first["compile_seconds"]
        whole = (f"{run['processor_seconds']:.1f} s" for run in (first, second))
        print(f"| {' | '.join([Path(config).name, *times, f'{share:.2f}', *whole])} |", flush=True)
        waited.append(f"{Path(config).name} {first['input_seconds']:.3f} and {second['input_seconds']:.3f} s")
    print(f"\nWaiting for input: {'; '.join(waited)}.")


if __name__ == "__main__":
    main()
