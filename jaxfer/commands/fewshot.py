"""`jaxfer fewshot`: few labelled examples on the frozen features of a run or a checkpoint."""

from __future__ import annotations

import argparse
import sys

from jaxfer.commands import shared

HELP = "n-way k-shot episodes, or nearest neighbours in the training split, on frozen features"


def arguments(parser: argparse.ArgumentParser) -> None:
    source = "a run's folder, or a checkpoint and --config.data.source=NAME ..."
    parser.add_argument("runs", nargs="+", metavar="RUN_OR_CHECKPOINT", help=f"{source}; several are fused")
    parser.add_argument("--split", default="val", help="val (default), test or train")
    names = "prototypes,simpleshot,knn,logistic (default); of a classifier also tip,tip-f,zero-shot"
    parser.add_argument("--classifiers", default="prototypes,simpleshot,knn,logistic", help=names)
    parser.add_argument("--way", type=int, help="classes of an episode; without it the training split is the support")
    parser.add_argument("--shot", type=int, default=1, help="labelled examples a class (1)")
    parser.add_argument("--queries", type=int, default=15, help="examples a class to tell (15)")
    parser.add_argument("--episodes", type=int, default=600, help="how many (600)")
    parser.add_argument("--seed", type=int, default=0, help="of the episodes (0)")
    parser.add_argument("--alpha", type=float, help="of tip and tip-f: weight of the memory (1)")
    parser.add_argument("--beta", type=float, help="of tip and tip-f: its sharpness (5.5); choose both on val")
    parser.add_argument("--checkpoint", default="result", help="of a run: result (default), last or best")
    shared.add_nocache(parser)


def command(arguments: argparse.Namespace, overrides: dict[str, str]) -> None:
    import jaxfer
    from jaxfer import terminal
    from jaxfer.parallel import cluster

    cluster.refuse("fewshot")
    shared.keep_programs(arguments)
    names = ("split", "way", "shot", "queries", "episodes", "seed", "checkpoint", "alpha", "beta")
    given = {name: getattr(arguments, name) for name in names}
    classifiers = tuple(name for name in arguments.classifiers.split(",") if name)
    found = jaxfer.fewshot(arguments.runs, classifiers=classifiers, overrides=overrides, **given)
    if arguments.way is None:
        examples = next(iter(found.values()))["examples"]
        print(f"{arguments.split}, {examples} examples; support: all training examples")
    else:
        print(f"{arguments.split}, {arguments.way}-way {arguments.shot}-shot, {arguments.episodes} episodes")
    columns = (terminal.Column("", terminal.NAME), terminal.Column("accuracy"))
    rows = [(name, _said(scores)) for name, scores in found.items()]
    print(terminal.table(columns, rows, terminal.page_of(sys.stdout)))


def _said(scores: dict[str, float]) -> str:
    half = f" ± {scores['half_width']:.4f}" if "half_width" in scores else ""
    return f"{scores['accuracy']:.4f}{half}"
