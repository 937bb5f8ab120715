"""`jaxfer run`: train, resume or extend a run."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from jaxfer.commands import shared
from jaxfer.errors import InputError

HELP = "train, resume or extend a run"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help=shared.CONFIG)
    parser.add_argument("--workdir", help="the run's folder; default runs/CONFIG/ARG")
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="for several processes: where process 0 listens")
    parser.add_argument("--num_processes", type=int, help="number of processes; set by SLURM, Open MPI and TPU pods")
    parser.add_argument("--process_id", type=int, help="index of this process, from 0")
    shared.add_nocache(parser)


def command(arguments: argparse.Namespace, overrides: dict[str, str]) -> None:
    shared.resumable()
    from jaxfer.parallel import cluster, liveness

    cluster.join(arguments.coordinator, arguments.num_processes, arguments.process_id)
    import jaxfer

    shared.keep_programs(arguments, say=True)
    folder = shared.workdir(arguments)
    with liveness.leaving():
        result = jaxfer.run(jaxfer.load(arguments.config, overrides), folder)
    if not cluster.leader():
        return
    end(folder, result)


def end(workdir: str, result: dict[str, Any]) -> None:
    """Prints how the run ended and draws its pictures. All is on disk by now: what fails here is a warning."""
    from jaxfer import files, terminal
    from jaxfer.figures import outcome
    from jaxfer.runs import history
    from jaxfer.runs.metrics import read_metrics

    folder = files.opened(workdir)
    try:
        lines = read_metrics(folder / "metrics.jsonl")
        by = history.monitor(files.read_json(folder / "config.json"))
    except (InputError, OSError):
        lines, by = [], None
    print(outcome.table(result, lines, by, terminal.page_of(sys.stdout)))
    terminal.say(f"{outcome.cost(result)}; everything is in {folder}")
    if lines:
        _draw("curves.png", folder)
    if result.get("report"):
        _draw("the confusion matrix", folder)


def _draw(what: str, folder: Any) -> None:
    from jaxfer import terminal

    try:
        from jaxfer.figures import confusion, curves  # matplotlib is slow to import

        curves.draw(folder) if what == "curves.png" else confusion.of_run(folder)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        terminal.say(f"warning: {what} was not drawn ({reason}); the run is complete", sys.stderr)
