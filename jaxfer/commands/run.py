"""`jaxfer run`: train, resume or extend a run."""

from __future__ import annotations

import argparse
import sys

from jaxfer.commands import shared

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
    from jaxfer import terminal

    shared.keep_programs(arguments, say=True)
    folder = shared.workdir(arguments, arguments.config.partition(":")[2].replace(",", "-") or "main")
    with liveness.leaving():
        result = jaxfer.run(jaxfer.load(arguments.config, overrides), folder)
    if not cluster.leader():
        return
    for split, metrics in result["metrics"].items():
        print(shared.numbers(metrics, f"{split}: "))
    if result.get("report"):
        _draw(folder)
    cost = result["cost"]
    early = "".join(f" ({name} stopped at {step})" for name, step in result.get("stopped", {}).items())
    terminal.say(
        f"{cost['params_trainable']:,} of {cost['params_total']:,} parameters trained, {result['steps']} steps{early}, "
        f"{cost['seconds']:.1f} s; everything is in {folder}"
    )


def _draw(folder: str) -> None:
    """The pictures of a finished run; the run is done, whatever becomes of them."""
    from jaxfer import terminal

    try:
        from jaxfer.report import confusion  # matplotlib takes a second

        confusion.of_run(folder)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        terminal.say(f"warning: no picture of the confusion matrix ({reason}); result.json has its counts", sys.stderr)
