"""Four fake CPU devices for every test, and no programs of earlier ones; set before anything imports jax."""

import os

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4".strip()
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAXFER_CACHE"] = "off"
