"""A sweep of probes that are trained together, for `kill.py`."""

from tests.killed import grid


def get_config(arg=""):
    """One of them."""
    return grid()


def sweep():
    """A row for each of two seeds."""
    for seed in (0, 1):
        for rate in (1e-3, 1e-2, 1e-1):
            yield {"seed": seed, "stage.probe.lr": rate}
