"""Four fake CPU devices and quick compiles for every test, no programs of earlier ones; set before JAX is imported.

Also what a session reports: its slowest tests in a file, and the seconds that the tiers of the conformance suite took.
"""

import collections
import contextlib
import ctypes
import gc
import os
import signal
import sys
from pathlib import Path

import pytest

from tests.flags import UNOPTIMISED

flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
if "--xla_backend_optimization_level" not in flags:
    # Tests compile hundreds of tiny programs. What users run is optimised, and so it is in the quickstart, in the
    # images of tests/kill.py and in the tests of `make parity` that compare numbers.
    flags += f" {UNOPTIMISED}"
os.environ["XLA_FLAGS"] = flags.strip()
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAXFER_CACHE"] = "off"
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background of a script, where Ctrl-C is nobody's
    signal.signal(signal.SIGINT, signal.default_int_handler)

# JAX collects its own garbage with Python's. A worker holds millions of objects, and looking at them all as often as
# Python does by itself took a sixth of all seconds. `pytest_collection_finish` sets those aside that stay.
gc.set_threshold(200_000, 20, 100)

SLOWEST = 25
METHODS, FAMILIES = 25, 19  # what the tiers are built for
MEMORY = 3 * 2**30  # bytes of a worker above which compiled programs are dropped


def pytest_addoption(parser):
    parser.addoption("--slowest", metavar="FILE", help="write the slowest tests there, and every file's seconds")


class Times:
    """Seconds of each test, set-up and tear-down included, and which of them are of a tier."""

    def __init__(self):
        self.seconds = collections.Counter()
        self.pairs = {"tier_i": collections.Counter(), "tier_ii": collections.Counter()}

    def pytest_runtest_logreport(self, report):
        self.seconds[report.nodeid] += report.duration
        for tier, pairs in self.pairs.items():
            if tier in report.keywords:
                test = report.nodeid.partition("@")[0]  # xdist appends the group
                pairs["-".join(test.rstrip("]").replace("[", "-").split("-")[-2:])] += report.duration

    def pytest_terminal_summary(self, terminalreporter, config):
        for line in self.extrapolated(config):
            terminalreporter.write_line(line)
        if path := config.getoption("--slowest"):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            files = collections.Counter()
            for test, seconds in self.seconds.items():
                files[test.partition("::")[0]] += seconds
            listed = (*self.seconds.most_common(SLOWEST), ("files:", sum(files.values())), *files.most_common())
            Path(path).write_text("".join(f"{seconds:7.2f} {name}\n" for name, seconds in listed))
            terminalreporter.write_line(f"the {SLOWEST} slowest tests: {path}")

    def extrapolated(self, config):
        """Seconds of both tiers and what they would be for 25 methods and 19 families."""
        if not all(self.pairs.values()):
            return
        kinds = {
            "tier_i": [(METHODS * FAMILIES, lambda pair: True)],
            # Every method on two models, which `full` is not counted among, and every model under `full`.
            "tier_ii": [
                (2 * (METHODS - 1), lambda pair: not pair.startswith("full-")),
                (FAMILIES, lambda pair: pair.startswith("full-")),
            ],
        }
        more = 0.0
        for tier, parts in kinds.items():
            pairs, wanted, later = self.pairs[tier], 0, 0.0
            for count, of_this in parts:
                seconds = [seconds for pair, seconds in pairs.items() if of_this(pair)]
                wanted += count
                later += count * sum(seconds) / max(1, len(seconds))
            more += later - pairs.total()
            yield (
                f"{tier}: {len(pairs)} pairs in {pairs.total():.0f} s; "
                f"{METHODS} methods x {FAMILIES} families: {wanted} pairs, {later:.0f} s"
            )
        workers = getattr(config.option, "numprocesses", None) or 1
        minutes = (self.seconds.total() + more) / workers / 60
        yield f"all {len(self.seconds)} tests with so many pairs: {minutes:.1f} min on {workers} workers"


def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Times())


def pytest_collection_finish():
    gc.collect()
    gc.freeze()
    # A file that a test imports and writes anew within the second, at the same size, would be read from its bytecode.
    sys.dont_write_bytecode = True


@pytest.fixture(scope="module")
def little_garbage():
    """For tests whose damage is found with a collection each time, which would go through all that others left."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True, scope="session")
def _room():
    """Tests count compiles: what others left in a worker is dropped between modules, not within a test."""
    from jaxfer.training import programs

    programs.ROOM = 0.9


@pytest.fixture(autouse=True, scope="module")
def _memory():
    """Drops every compiled program after a module that left a worker large: it would end at 5 GB."""
    yield
    from jaxfer.training import programs

    if _resident() > MEMORY or programs._mapped() > 0.4:
        from jaxfer import ports, stages

        programs.drop()
        for cached in (stages._compiled_init, ports.compiled_port_init):
            cached.cache_clear()
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):  # glibc keeps what was freed until it is asked
            ctypes.CDLL("libc.so.6").malloc_trim(0)


def _resident():
    """Bytes of this process in memory; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
