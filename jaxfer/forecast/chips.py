"""Kinds of TPU: their memory and published peaks."""

from __future__ import annotations

import dataclasses

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """A kind of TPU.

    Attributes:
      memory: bytes of HBM that the compiler lets a program use: what the chip has less what the runtime keeps.
      flops: peak operations a second of a chip in bfloat16.
      bandwidth: bytes a second between the chip and its HBM.
      links: bytes a second that the chip sends over all its links together: half of what is called bidirectional.
      axes: of a slice's shape.
      cores: how the chip's cores are used, in libtpu's words; None as it does by itself.
    """

    memory: float
    flops: float
    bandwidth: float
    links: float
    axes: int
    cores: str | None = None


# Memory: what libtpu 0.0.42's compiler allows, in its error about a program that is too large. The others are those of
# docs.cloud.google.com/tpu/docs/{v4,v5e,v5p-training,v6e} in 2026: HBM at 1200, 819, 2765 and 1638 GB/s (other versions
# of the pages: v5e 800, v6e 1600 and 1640); links, bidirectional, at 400, 1200 and 800 GB/s for v5e, v5p and v6e. Of
# v4's links the page says nothing: six of 50 GB/s (Jouppi et al., 2023, arXiv:2304.01433).
CHIPS = {
    "v4": Chip(30.75 * GIB, 275e12, 1200e9, 300e9, 3, "megacore"),
    "v5e": Chip(15.75 * GIB, 197e12, 819e9, 200e9, 2),
    "v5p": Chip(95.74 * GIB, 459e12, 2765e9, 600e9, 3),
    "v6e": Chip(31.25 * GIB, 918e12, 1638e9, 400e9, 2),
}
