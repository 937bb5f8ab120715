"""The comparison with PyTorch is collected where torch is installed (the extra `parity`), and only there."""

from __future__ import annotations

import importlib.util

collect_ignore_glob = [] if importlib.util.find_spec("torch") else ["*.py"]
