"""`jaxfer predict`: labels and probabilities for files."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from jaxfer.commands import fail, shared
from jaxfer.errors import InputError

HELP = "labels and probabilities for files"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="RUN_OR_EXPORT", help="folder of a finished run, an export or an adapter")
    parser.add_argument("inputs", nargs="+", metavar="FILE", help="images or sounds; for a text model, files of lines")
    parser.add_argument("--text", action="store_true", help="treat the arguments as texts, not as file names")
    labelled = "FILE is one .csv, .tsv or .jsonl table of texts (or of files) with labels; prints metrics too"
    parser.add_argument("--labelled", action="store_true", help=labelled)
    parser.add_argument("--json", action="store_true", help="one JSON object per line, with every class")
    shared.add_nocache(parser)


def command(arguments: argparse.Namespace, overrides: dict[str, str]) -> int:
    if not arguments.labelled:
        shared.no_overrides(overrides)
    elif arguments.text or len(arguments.inputs) != 1:
        raise InputError(f"--labelled: expected one table and no --text, found {' '.join(arguments.inputs)}")
    import jaxfer
    from jaxfer import terminal
    from jaxfer.exports.predict import load_model

    shared.keep_programs(arguments)
    if arguments.labelled:
        scored = jaxfer.score(arguments.source, *arguments.inputs, overrides=overrides)
        answers, metrics, notes = scored.predictions, scored.metrics, scored.notes
    else:
        model = load_model(arguments.source)
        answers, metrics, notes = jaxfer.predict(model, arguments.inputs, text=arguments.text), {}, model.notes
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    if arguments.json:
        print("\n".join(json.dumps(answer.to_dict()) for answer in answers))
    else:
        rows = [(answer.input, *_shown(answer)) for answer in answers if answer.error is None]
        columns = (terminal.Column("", terminal.NAME), terminal.Column(""), terminal.Column(""))
        if rows:
            print(terminal.table(columns, rows, terminal.page_of(sys.stdout)))
    if metrics:
        print(json.dumps({"metrics": metrics}) if arguments.json else shared.numbers(metrics))
    failed = [answer.error for answer in answers if answer.error is not None]
    for error in failed:
        fail(error, InputError.exit_code)
    return InputError.exit_code if failed else 0


def _shown(answer: Any) -> tuple[str, str]:
    """(labels, their probabilities) of a table's row; ("", value) for regression."""
    tail = "" if answer.expected is None else f"  expected {answer.expected or '-'}"
    if answer.value is not None:
        return "", f"{answer.value:.4f}{tail}"
    if answer.text is not None:
        return "", answer.text
    if answer.spans is not None:
        return "", "; ".join(f"{text} ({name})" for text, name in answer.spans) or "-"
    chances = " ".join(f"{answer.probabilities[label]:.4f}" for label in answer.labels)
    return ";".join(answer.labels) or "-", chances + tail
