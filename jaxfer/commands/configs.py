"""`jaxfer configs`: the configs that come with jaxfer."""

from __future__ import annotations

import argparse
import ast

HELP = "the configs that come with jaxfer, to run by name or to copy"


def arguments(parser: argparse.ArgumentParser) -> None:
    """None."""


def command(arguments: argparse.Namespace, overrides: dict[str, str]) -> None:
    from jaxfer.config import shipped

    configs = shipped()
    width = max(map(len, configs), default=0)
    for name, path in configs.items():
        summary = (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]
        print(f"{name.ljust(width)}  {summary}")
    folders = {path.parent for path in configs.values()}
    print(f"in {folders.pop()}" if folders else "none: this installation has no folder of configs")
