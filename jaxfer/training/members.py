"""Which runs of a sweep are trained together in one program: those on stored features, and those of small networks."""

from __future__ import annotations

import functools
import os

import jax

from jaxfer.config.experiment import Experiment
from jaxfer.models.port import FEATURES
from jaxfer.parallel.placement import Placement
from jaxfer.stages import Stage
from jaxfer.step import evaluated
from jaxfer.training.cut import Alike, cut
from jaxfer.training.programs import eval_arguments, eval_step

# FLOPs of a forward pass over a batch, up to which several whole networks in one program are expected to take less time
# than one after the other. On a CPU it was measured (`experiments/speed/members.py`), on accelerators it was not: there
# it is what keeps a device for less time than its kernels take to launch.
SMALL, SMALL_ON_CPU = 3e9, 4e7


def alone(where: Placement, experiment: Experiment) -> bool:
    """Whether a stage runs on a single device, and nobody wants a profile: that is of single steps."""
    return where.mode == "jit" and where.size == 1 and not experiment.run.profile


def possible(stage: Stage, where: Placement, experiment: Experiment) -> bool:
    """Whether a stage may be trained in one program with its like: on stored features, or as a small network."""
    if not alone(where, experiment) or stage.spec.method.at_once is not None:
        return False
    at = cut(stage, where, experiment).at
    return at == FEATURES or at is None and small(stage, where)


def small(stage: Stage, where: Placement) -> bool:
    """Whether a stage's network is so small that several in one program pay, and its batches have one shape."""
    spec = stage.spec
    one_shape = not any(len(encoding.buckets) > 1 for encoding in spec.port.encodings)
    plain = not (spec.streams or spec.others)
    return one_shape and plain and _small(Alike.of(stage), where.platform)


def fits(peak_bytes: int, where: Placement) -> bool:
    """Whether a program of so many bytes, as its compiler counts them, has room on the device."""
    room = (where.mesh.devices.flat[0].memory_stats() or {}).get("bytes_limit") or _host_bytes()
    return peak_bytes <= room


@functools.lru_cache(maxsize=64)
def _small(alike: Alike, platform: str) -> bool:
    stage, spec = alike.stage, evaluated(alike.spec)
    params = sum(leaf.size for leaf in jax.tree.leaves(stage.shapes[0]))
    most = SMALL_ON_CPU if platform == "cpu" else SMALL
    if params * alike.batch_size > most:  # sooner known than by tracing: products alone need more
        return False
    lowered = jax.jit(eval_step(spec)).lower(*eval_arguments(stage.spec, stage.blank(0)), stage.example())
    # On a CPU, XLA's convolutions take several times as long in a loop of steps.
    slow = platform == "cpu" and "stablehlo.convolution" in lowered.as_text()
    return not slow and lowered.cost_analysis().get("flops", 0.0) <= most


def _host_bytes() -> int:
    """Of this machine's memory, or of what this process may use of it."""
    have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        with open("/sys/fs/cgroup/memory.max") as limit:
            return min(have, int(limit.read()))
    except (OSError, ValueError):  # no such limit
        return have
