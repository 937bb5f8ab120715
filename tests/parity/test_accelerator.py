"""The accelerator check beside PyTorch, on tiny models: both sides run; what they measure is of no account."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "experiments" / "speed" / "accelerator.py"


@pytest.mark.rest
def test_both_sides_run():
    flags = ["--tiny", "--models", "ResNet-50", "--smallest", "8", "--largest", "8", "--seconds", "0.05"]
    done = subprocess.run([sys.executable, SCRIPT, *flags], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    name, batch, *_, theirs, ratio = done.stdout.splitlines()[-1].strip("| ").split(" | ")
    assert (name, batch) == ("ResNet-50", "8")
    assert theirs.endswith(" at 8") and float(ratio) > 0
