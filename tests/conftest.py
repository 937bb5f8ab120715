"""Four fake CPU devices and quick compiles for every test, no programs of earlier ones; set before JAX is imported."""

import importlib.metadata
import os

flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
if "--xla_backend_optimization_level" not in flags:
    # Tests compile hundreds of tiny programs and run each for a moment: left unoptimised they take a quarter of the
    # time. What users run is optimised, and so it is in the quickstart, in tests/kill.py and in `make parity`.
    flags += " --xla_backend_optimization_level=0"
    if importlib.metadata.version("jaxlib").startswith("0.10."):  # later ones end at a flag that they don't know
        flags += " --xla_cpu_use_fusion_emitters=false"
os.environ["XLA_FLAGS"] = flags.strip()
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAXFER_CACHE"] = "off"
