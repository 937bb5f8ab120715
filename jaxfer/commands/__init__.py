"""The command line: parse, run one command, print. A command is a file of this folder; the work is in the functions.

Each file defines HELP (one line), `arguments(parser)`, and `command(arguments, overrides)`, which returns the exit code
or None for 0. Nothing is imported before it is needed, so that `--help` and a config's mistake do not wait for JAX.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from jaxfer import console
from jaxfer.errors import CellsFailed, InputError, Interrupted, NonFiniteLoss, Preempted, refused

# In the order of `jaxfer --help`.
COMMANDS = (
    "run",
    "show",
    "configs",
    "doctor",
    "plan",
    "find_lr",
    "eval",
    "features",
    "fewshot",
    "rank",
    "cache",
    "merge",
    "ensemble",
    "chain",
    "adapters",
    "select",
    "export",
    "predict",
    "runs",
    "track",
    "sweep",
    "compare",
    "report",
    "ui",
    "new",
    "check",
)


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
            what = f"a file that the command runs (a method or a source) raised SystemExit({stop.code!r})"
            raise InputError(f"{what}; raise another exception there") from stop
        sys.stdout.flush()  # so that a closed pipe shows here and not at exit
    except (InputError, NonFiniteLoss, CellsFailed) as error:
        return fail(str(error), error.exit_code)
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
            return fail(f"standard output can't be written ({fault.strerror})", InputError.exit_code)
        message = refused(error)
        if message is None:
            raise  # a bug of ours or of a plugged-in file: its author needs the traceback
        return fail(message, InputError.exit_code)
    finally:
        if own_process:
            console.impatient()
    return exit_code or 0


def fail(message: str, exit_code: int) -> int:
    """Prints one line to stderr; returns the exit code."""
    from jaxfer import terminal

    terminal.say("error: " + " ".join(message.split()), sys.stderr)
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
    for name in COMMANDS:
        module = importlib.import_module(f"jaxfer.commands.{name}")
        command = commands.add_parser(name.replace("_", "-"), help=module.HELP)
        module.arguments(command)
        command.set_defaults(command=module.command)
    return parser
