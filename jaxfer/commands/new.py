"""`jaxfer new`: a working file of the user's own, and its test."""

from __future__ import annotations

import argparse
import importlib.resources
import keyword
from pathlib import Path

from jaxfer import registry
from jaxfer.errors import InputError

HELP = "write a working method, model, task, source or experiment, and its test"

# Where each kind of file is found again, under the folder that `--folder` names.
FOLDERS = {room.word: room.folder for room in registry.ROOMS} | {"experiment": "configs"}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", choices=FOLDERS, metavar="KIND", help=", ".join(FOLDERS))
    parser.add_argument("name", help="its name in configs and the file's name")
    parser.add_argument("--folder", default=".", help="your repository (default: the current folder)")


def command(arguments: argparse.Namespace, overrides: dict[str, str]) -> None:
    kind, name, folder = arguments.kind, arguments.name, Path(arguments.folder)
    if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_"):
        raise InputError(f"expected a name of letters, digits and _, found {name!r}; jaxfer new {kind} my_{kind}")
    for room in registry.ROOMS:
        if room.word == kind and name in room.names():
            raise InputError(f"a {kind} called {name!r} exists; choose another name")
    templates = importlib.resources.files("jaxfer") / "templates"
    files = {
        folder / FOLDERS[kind] / f"{name}.py": templates / f"{kind}.py",
        folder / "tests" / f"test_{name}.py": templates / "tests" / f"{kind}.py",
    }
    for file in files:
        if file.exists():
            raise InputError(f"{file} exists; choose another name, or remove it")
    for file, template in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(template.read_text().replace("__NAME__", name))
        print(file)
    if kind == "experiment":
        print(f"next: jaxfer show {folder / FOLDERS[kind] / name}.py")
    else:
        print(f"next: jaxfer check {kind} {name}")
