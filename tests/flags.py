"""Flags of XLA for tests. It imports nothing that reads them."""

from __future__ import annotations

import importlib.metadata

# Programs that run for a moment: left unoptimised, they compile in a quarter of the time.
UNOPTIMISED = "--xla_backend_optimization_level=0"
if importlib.metadata.version("jaxlib").startswith("0.10."):  # later ones end at a flag that they don't know
    # A program is generated in one piece: both processors are busy with tests.
    UNOPTIMISED += " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
