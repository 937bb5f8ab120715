"""The command line: parse, call the function of the same name, print. All of its wisdom is in the functions."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxfer import console
from jaxfer.errors import CellsFailed, InputError, Interrupted, NonFiniteLoss, Preempted, refused


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code: 0 done, 1 a cell failed, 2 bad input, 3 diverged, 4 a plan that
    does not fit, 75 run me again."""
    own_process = argv is None
    if own_process:
        console.prepare()
    argv = list(sys.argv[1:] if own_process else argv)
    try:
        overrides, rest = _overrides(argv)
        arguments, unknown = _parser().parse_known_args(rest)
        if unknown:
            raise InputError(f"unknown argument {unknown[0]!r}; overrides are written --config.field=value")
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        from absl import flags

        flags.FLAGS.mark_as_parsed()  # Grain's workers read absl flags, which no absl.app has parsed here
        try:
            exit_code = arguments.command(arguments, overrides)
        except SystemExit as stop:
            if isinstance(stop, Preempted):
                raise
            found = f"SystemExit({stop.code!r}) was raised by a file that the command runs, a method's or a source's"
            raise InputError(f"{found}; raise an error there") from stop
        sys.stdout.flush()  # so that a closed pipe shows here and not at exit
    except (InputError, NonFiniteLoss, CellsFailed) as error:
        return _fail(str(error), error.exit_code)
    except Preempted as notice:
        print(notice.message, file=sys.stderr)
        return notice.exit_code
    except KeyboardInterrupt as stop:
        print(str(stop) or console.INTERRUPTED, file=sys.stderr)
        return Interrupted.exit_code
    except Exception as error:
        if fault := console.output_fault():
            console.drop_output()
            if isinstance(fault, BrokenPipeError):  # the reader of our output has gone, `| head` for one
                return 0
            return _fail(f"standard output can't be written ({fault.strerror})", InputError.exit_code)
        found = refused(error)
        if found is None:
            raise  # a bug of ours or of a plugged-in file: its author needs the traceback
        return _fail(found, InputError.exit_code)
    finally:
        if own_process:
            console.impatient()
    return exit_code or 0


def _fail(message: str, exit_code: int) -> int:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return exit_code


def _overrides(argv: list[str]) -> tuple[dict[str, str], list[str]]:
    """`--config.a.b=value` -> {"a.b": "value"}; the rest is argparse's."""
    overrides, rest = {}, []
    for word in argv:
        if not word.startswith("--config."):
            rest.append(word)
            continue
        name, equals, value = word.removeprefix("--config.").partition("=")
        if not equals:
            raise InputError(f"expected {word}=VALUE")
        if name in overrides:
            raise InputError(f"--config.{name} is given twice")
        overrides[name] = value
    return overrides, rest


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        raise InputError(f"{message}; see `{self.prog} --help`")


def _parser() -> argparse.ArgumentParser:
    from jaxfer import __version__

    parser = _Parser(prog="jaxfer", description="Transfer learning experiments in JAX.")
    parser.add_argument("--version", action="version", version=f"jaxfer {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)
    config_help = "FILE.py or FILE.py:ARG; override fields with --config.field=value"

    run = commands.add_parser("run", help="train, resume or extend a run")
    run.add_argument("config", help=config_help)
    run.add_argument("--workdir", help="the run's folder; default runs/CONFIG/ARG")
    run.add_argument("--coordinator", metavar="HOST:PORT", help="of several processes: where process 0 listens")
    run.add_argument("--num_processes", type=int, help="how many; SLURM, Open MPI and TPU pods tell it themselves")
    run.add_argument("--process_id", type=int, help="which of them this is, from 0")
    _cached(run)
    run.set_defaults(command=_run)

    show = commands.add_parser("show", help="parameters, groups, rates and cost, before anything is allocated")
    show.add_argument("config", help=config_help)
    show.set_defaults(command=_show)

    plan = commands.add_parser("plan", help="what a TPU slice that is not here would need, compiled for it")
    plan.add_argument("config", help=config_help)
    plan.add_argument("--topology", required=True, help="KIND:SHAPE of v4, v5e, v5p, v6e: v5e:4x4, v5p:2x2x2, ...")
    plan.add_argument("--json", action="store_true", help="every number, as one JSON object")
    _cached(plan)
    plan.set_defaults(command=_plan)

    evaluate = commands.add_parser("eval", help="evaluate a finished run, also on another data set")
    evaluate.add_argument("run", help="the run's folder")
    evaluate.add_argument("--split", default="val", help="val (default), test or train")
    evaluate.add_argument("--checkpoint", default="result", help="result (default), last or best")
    _cached(evaluate)
    evaluate.set_defaults(command=_eval)

    export = commands.add_parser("export", help="write a finished run for other people's tools")
    export.add_argument("run", help="the run's folder")
    formats = "hf (default), sentence-transformers (mean-pooled texts), peft (a LoRA run's adapter) or torchvision"
    export.add_argument("--format", default="hf", help=formats)
    export.add_argument("--out", help="the folder to write; default RUN/export-FORMAT")
    export.set_defaults(command=_export)

    predict = commands.add_parser("predict", help="labels and probabilities for files")
    predict.add_argument("source", metavar="RUN_OR_EXPORT", help="folder of a finished run, an export or an adapter")
    predict.add_argument("inputs", nargs="+", metavar="FILE", help="images; for a model of texts files of lines")
    predict.add_argument("--text", action="store_true", help="the FILEs are texts themselves")
    predict.add_argument("--json", action="store_true", help="a JSON object a line, with every class")
    _cached(predict)
    predict.set_defaults(command=_predict)

    sweep = commands.add_parser("sweep", help="run every cell of the config's sweep() and draw up the table")
    sweep.add_argument("config", help=config_help)
    sweep.add_argument("--workdir", help="the sweep's folder; default runs/CONFIG/sweep")
    _processes(sweep)
    _cached(sweep)
    sweep.set_defaults(command=_sweep)

    compare = commands.add_parser(
        "compare", help="tune every method alike, read test once, say whether transfer helped"
    )
    compare.add_argument("config", help=config_help)
    compare.add_argument("--workdir", help="the comparison's folder; default runs/CONFIG/compare")
    _processes(compare)
    _cached(compare)
    compare.set_defaults(command=_compare)
    return parser


def _processes(command: argparse.ArgumentParser) -> None:
    command.add_argument("--processes", type=int, default=1, help="how many cells run side by side (default 1)")


def _cached(command: argparse.ArgumentParser) -> None:
    command.add_argument("--nocache", action="store_true", help="keep no compiled programs, and read none")


def _keep_programs(arguments: argparse.Namespace, *, say: bool = False) -> None:
    from jaxfer.training import compilation_cache

    compilation_cache.enable(None if arguments.nocache else compilation_cache.default())
    if say and compilation_cache.in_use():
        print(f"compiled programs are kept in {compilation_cache.in_use()} (--nocache keeps none)", file=sys.stderr)


def _resumable() -> None:
    """SIGTERM means `run me again` from the first moment: until the run itself listens, there is nothing to save."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: os._exit(Preempted.exit_code))


def _run(arguments: argparse.Namespace, overrides: dict[str, str]) -> None:
    _resumable()
    from jaxfer.parallel import cluster, liveness

    cluster.join(arguments.coordinator, arguments.num_processes, arguments.process_id)
    import jaxfer

    _keep_programs(arguments, say=True)
    workdir = _workdir(arguments, arguments.config.partition(":")[2].replace(",", "-") or "main")
    with liveness.leaving():
        result = jaxfer.run(jaxfer.load(arguments.config, overrides), workdir)
    if not cluster.leader():
        return
    for split, metrics in result["metrics"].items():
        print(f"{split}: {_numbers(metrics)}")
    cost = result["cost"]
    print(
        f"{cost['params_trainable']:,} of {cost['params_total']:,} parameters trained, {result['steps']} steps, "
        f"{cost['seconds']:.1f} s; everything is in {workdir}"
    )


def _show(arguments: argparse.Namespace, overrides: dict[str, str]) -> None:
    import jaxfer

    print("\n\n".join(map(str, jaxfer.show(jaxfer.load(arguments.config, overrides)))))


def _plan(arguments: argparse.Namespace, overrides: dict[str, str]) -> int:
    """0: every stage fits; `forecast.DOES_NOT_FIT`: one does not, and how it would is among what was printed."""
    import jaxfer
    from jaxfer import forecast

    _keep_programs(arguments)
    found = forecast.plan(jaxfer.load(arguments.config, overrides), arguments.topology)
    print(json.dumps(found.to_dict(), indent=1) if arguments.json else found)
    return 0 if found.fits else forecast.DOES_NOT_FIT


def _eval(arguments: argparse.Namespace, overrides: dict[str, str]) -> None:
    import jaxfer

    _keep_programs(arguments)
    found = jaxfer.evaluate(arguments.run, split=arguments.split, checkpoint=arguments.checkpoint, overrides=overrides)
    print(f"{arguments.split}: {_numbers(found)}")


def _export(arguments: argparse.Namespace, overrides: dict[str, str]) -> None:
    _no_overrides(overrides)
    import jaxfer

    if arguments.out == "":
        raise InputError("--out: expected a folder, found ''; name one, or leave --out out")
    print(jaxfer.export(arguments.run, format=arguments.format, out=arguments.out))


def _predict(arguments: argparse.Namespace, overrides: dict[str, str]) -> int:
    _no_overrides(overrides)
    import jaxfer

    _keep_programs(arguments)
    answers = jaxfer.predict(arguments.source, arguments.inputs, text=arguments.text)
    if arguments.json:
        print("\n".join(json.dumps(answer.to_dict()) for answer in answers))
    else:
        rows = [(a.input, *_said(a)) for a in answers if a.error is None]
        widths = [max((len(row[i]) for row in rows), default=0) for i in range(2)]
        for name, label, number in rows:
            print(f"{name.ljust(widths[0])}  {label.ljust(widths[1])}  {number}".rstrip())
    failed = [answer.error for answer in answers if answer.error is not None]
    for error in failed:
        _fail(error, InputError.exit_code)
    return InputError.exit_code if failed else 0


def _said(answer: Any) -> tuple[str, str]:
    """(labels, their probabilities) as the table has them; of a regression ("", value)."""
    if answer.value is not None:
        return "", f"{answer.value:.4f}"
    chances = " ".join(f"{answer.probabilities[label]:.4f}" for label in answer.labels)
    return ";".join(answer.labels) or "-", chances


def _no_overrides(overrides: dict[str, str]) -> None:
    for name in overrides:
        raise InputError(f"--config.{name}: a finished run's config is what it is; leave it out")


def _sweep(arguments: argparse.Namespace, overrides: dict[str, str]) -> int:
    _resumable()
    import jaxfer
    from jaxfer.parallel import cluster

    cluster.refuse("sweep")

    _keep_programs(arguments, say=True)
    workdir = _workdir(arguments, "sweep")
    return jaxfer.sweep(arguments.config, workdir, overrides=overrides, processes=arguments.processes).exit_code


def _compare(arguments: argparse.Namespace, overrides: dict[str, str]) -> None:
    _resumable()
    import jaxfer
    from jaxfer.parallel import cluster

    cluster.refuse("compare")

    _keep_programs(arguments, say=True)
    workdir = _workdir(arguments, "compare")
    jaxfer.compare(arguments.config, workdir, overrides=overrides, processes=arguments.processes)


def _workdir(arguments: argparse.Namespace, name: str) -> str:
    if arguments.workdir == "":  # an unset shell variable would otherwise train in the default folder
        raise InputError("--workdir: expected a folder, found ''; name one, or leave --workdir out")
    if arguments.workdir is not None:
        return os.path.expanduser(arguments.workdir)  # `--workdir=~/x` reaches us unexpanded
    return str(Path("runs", Path(arguments.config.partition(":")[0]).stem, name))  # siblings, for `init=sibling:NAME`


def _numbers(metrics: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
