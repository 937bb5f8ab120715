"""`jaxfer.merge`: finished runs of one model become one run, whose method is `merge`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from jaxfer import config, files
from jaxfer.config.experiment import StageConfig
from jaxfer.errors import InputError, nearest
from jaxfer.merging import RULES
from jaxfer.runs.folder import holds_run, stored_config
from jaxfer.training import loop

# Of a stage's fields, what a merging reads as well; `task` is a section of the config, too.
KEPT = ("task", "batch_size", "compute_dtype", "dtype_rules")


def merge(
    runs: Sequence[str | epath.Path],
    *,
    rule: str = "uniform",
    base: str | None = None,
    workdir: str | epath.Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Merges finished runs and leaves an ordinary run: it can be evaluated, exported and started from.

    Args:
      runs: their folders; of one model and the same classes. The data and the seed are those of the first.
      rule: a key of `jaxfer.merging.RULES`.
      base: the start that they have in common, as `config.init` names one; None: what their configs name.
      workdir: the folder to write; None: `merged-RULE` beside the first run.
      overrides: of the new run's config, such as {"options.density": 0.1}.
      quiet: print nothing but warnings.

    Returns:
      The contents of result.json.

    Raises:
      InputError: an unknown rule, a folder without a run, runs of other models or classes, or starts that differ.
    """
    made = config_of(runs, rule, base)
    folder = files.opened(runs[0]).parent / f"merged-{rule}" if workdir is None else workdir
    return loop.run(config.override(made, overrides or {}), folder, quiet=quiet)


def config_of(runs: Sequence[str | epath.Path], rule: str, base: str | None = None) -> ConfigDict:
    """The config of such a run; arguments and errors as of `merge`."""
    if rule not in RULES:
        raise InputError(f"--rule: expected {', '.join(RULES)}, found {rule!r}{nearest(rule, RULES)}")
    if isinstance(runs, str) or not runs:
        raise InputError(f"expected the folders of finished runs, found {runs!r}")
    folders = [files.opened(run) for run in runs]
    for folder in folders:
        if not holds_run(folder):
            raise InputError(f"no run at {folder}: expected a folder that `jaxfer run` wrote")
    names = [folder.name for folder in folders]
    if len(set(names)) < len(names):  # of equal names the folders above tell them apart
        names = [str(folder).strip("/").replace("/", "-") for folder in folders]
    if len(set(names)) < len(names):
        raise InputError(f"expected different runs, found {', '.join(map(str, runs))}")
    names = [name.replace(".", "_") for name in names]  # a dot parts the names of a config's fields
    made = stored_config(folders[0])
    owned = {field.name for field in dataclasses.fields(StageConfig)} - set(KEPT)
    for name in ("stage", "stream", "networks", "recipe", "recipe_options", "filled_by", *owned):
        if name in made:
            del made[name]
    made.stages = ()
    made.update(method="merge", options={"rule": rule, "networks": tuple(names)})
    made.networks = {name: f"run:{_absolute(folder)}" for name, folder in zip(names, folders, strict=True)}
    if base is not None:
        made.init = base
    elif RULES[rule].base:
        made.init = _common(folders)
    else:  # the start is not read: the first run's, which has all leaves
        made.update(init=f"run:{_absolute(folders[0])}", head="keep", differs=())
    return made


def _common(folders: Sequence[epath.Path]) -> str:
    starts = {}
    for folder in folders:
        kind, _, name = (init := stored_config(folder).init).partition(":")
        places = {"sibling": folder.parent / name, "run": files.opened(name) if name else folder}
        starts[str(folder)] = f"run:{_absolute(places[kind])}" if kind in places else init
    found = sorted(set(starts.values()))
    if len(found) > 1 or found == ["scratch"]:
        what = "nothing that was trained (scratch)" if len(found) == 1 else " and ".join(found)
        raise InputError(f"the runs started from {what}; this rule needs one start: name it with --base")
    return found[0]


def _absolute(folder: epath.Path) -> str:
    return str(folder if files.remote(folder) else folder.resolve())
