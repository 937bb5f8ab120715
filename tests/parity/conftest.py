"""The comparison with PyTorch is collected where torch is installed (the extra `parity`), and only there; sweeps on
engines where the engine is.

Where torchvision is too, only what asks it or timm: `test_torchvision*.py`, `test_timm*.py` and `test_families.py`
(`tests.parity.packages` says why).
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

FILES = {file.name for file in Path(__file__).parent.glob("test_*.py")}
VISION = {name for name in FILES if name.startswith(("test_torchvision", "test_timm"))}

# These ask nothing of torch, but each another package.
ENGINES = {"test_ray.py": "ray"}
ENGINES |= dict.fromkeys(("test_optuna.py", "test_optuna_compare.py"), "optuna")
ENGINES |= dict.fromkeys(("test_slurm.py", "test_slurm_cluster.py"), "submitit")

if importlib.util.find_spec("torch") is None:
    present = {file for file, package in ENGINES.items() if importlib.util.find_spec(package) is not None}
    collect_ignore = sorted(FILES - present)
elif importlib.util.find_spec("torchvision") is None:
    collect_ignore = sorted(VISION)
else:
    collect_ignore = sorted(FILES - VISION - {"test_families.py"})
