"""Reconcile `config.model` with the checkpoint that `config.init` names.

The checkpoint decides architecture and preprocessing. A config that contradicts them is refused unless
`config.differs` announces the difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from jaxfer import files, registry
from jaxfer.config import check_config, init_options
from jaxfer.config.fields import AUTO
from jaxfer.data.encodings.tokenizers import located, tokenizer_sha256
from jaxfer.errors import InputError, nearest
from jaxfer.hub_download import Absent
from jaxfer.models import neck
from jaxfer.pretrained import columns, prompts
from jaxfer.pretrained.foreign import Checkpoint, is_foreign, opened
from jaxfer.registry import MODELS
from jaxfer.runs import records, tokenizer
from jaxfer.runs.folder import holds_run


def completed(config: ConfigDict, folder: epath.Path | None = None) -> ConfigDict:
    """Completes `config.model`; the config that `described` returns."""
    return described(config, folder).config


class Described(NamedTuple):
    """The result of `described`.

    Attributes:
      config: with `config.model` complete.
      notes: assumptions about the checkpoint and omissions, one line each.
      own_tokenizer: whether the tokenizer is known to be the model's: it is stored with the weights or with the
        source run, or `config.differs` announces it.
      checkpoint: what the files of a foreign one say; None for a run, for scratch, and where they are gone.
    """

    config: ConfigDict
    notes: tuple[str, ...] = ()
    own_tokenizer: bool = False
    checkpoint: Checkpoint | None = None


def described(config: ConfigDict, folder: epath.Path | None = None) -> Described:
    """Fills in `config.model` from the checkpoint that `config.init` names.

    A run's model fills in what the config leaves out, as `followed` says. The sha256 of a tokenizer is added.

    Args:
      config: as `jaxfer.load` returns it.
      folder: the run's folder. If it holds a run with the same `config.init`, the stored config.json replaces a
        checkpoint, source or tokenizer that no longer exists.

    Raises:
      InputError: no such checkpoint, one that is not read, or a model option that contradicts it and is not announced.
    """
    check_config(config)
    init, model = config.get("init"), config.get("model")
    if not isinstance(init, str) or not isinstance(model, ConfigDict):
        return Described(config)
    announced = tuple(config.get("differs") or ())
    notes, checkpoint = (), None
    own_tokenizer = "tokenizer" in announced or (init != "scratch" and not is_foreign(init))
    config = config.copy_and_resolve_references()
    options, stored = dict(model.items()), _stored(folder, init)
    name = options.pop("name", None)
    if options.get("tokenizer") and not options.get("tokenizer_sha256"):  # its content is part of the run's identity
        options["tokenizer_sha256"] = _sha256(options["tokenizer"], stored)
    if is_foreign(init):
        try:
            checkpoint = opened(init, name, options, init_options(config))
            notes = checkpoint.notes
            own_tokenizer = own_tokenizer or bool(checkpoint.files.tokenizer)
            if config.get("head") == "prompts":  # the features that texts are compared with
                needed = prompts.needed(checkpoint.layout, init)
                options, announced = {**needed, **options}, (*announced, *needed)
            name, options = checkpoint.layout.family, agreed(checkpoint, options, announced)
        except Absent:
            if not stored:
                raise
            name, options = _again(stored, name, options)
            own_tokenizer = True  # as decided when the run started
    elif init != "scratch" and (source := _of_run(init, folder) or stored):
        registry.use(config.get("rooms") or ())  # a stored config's, which nothing has resolved yet
        name, options = followed(source, name, options, announced)
    elif init.startswith("sibling:") and folder is not None:
        notes = (f"config.init={init} isn't there yet: what config.model leaves out will be as in that run",)
    with config.unlocked(), config.ignore_type():
        config.model = ConfigDict({**options, "name": name} if name is not None else options)
    return Described(config, notes, own_tokenizer, checkpoint)


def _stored(folder: epath.Path | None, init: str) -> dict[str, Any]:
    """`config.model` of the run stored in the folder; {} without a run or if its `config.init` differs."""
    if folder is None or not (folder / "config.json").exists():
        return {}
    content = files.read_json(folder / "config.json", records.StoredConfig)
    return content["model"] if content["init"] == init else {}


def _again(
    stored: Mapping[str, Any], name: str | None, options: Mapping[str, Any]
) -> tuple[str | None, dict[str, Any]]:
    """(name, options) of a resumed run; the resume check judges other differences from the stored config."""
    if name not in (AUTO, stored["name"]):
        return name, dict(options)
    return stored["name"], {option: value for option, value in {**stored, **options}.items() if option != "name"}


def _of_run(init: str, folder: epath.Path | None) -> dict[str, Any]:
    """`config.model` of the source, with the tokenizer that its folder keeps; {} where there is no such run, yet."""
    kind, _, name = init.partition(":")
    if not name or (kind == "sibling" and folder is None):
        return {}
    source = files.opened(name) if kind == "run" else folder.parent / name
    if not holds_run(source):
        return {}
    model = dict(files.read_json(source / "config.json", records.StoredConfig)["model"])
    if model.get("tokenizer") and (source / tokenizer.FOLDER).exists():
        model["tokenizer"] = str(source / tokenizer.FOLDER)
    return model


def followed(
    source: Mapping[str, Any], name: str | None, options: Mapping[str, Any], differs: Sequence[str] = ()
) -> tuple[str | None, dict[str, Any]]:
    """(name, options) of a model that goes on from a run's.

    What the config leaves out is the source's: under `auto` all of it; under the source's own name what gives its
    weights their meaning, so neither what only changes training or the length of inputs, nor what `config.differs`
    announces. Columns of a table are `training/fitted.py`'s.

    Args:
      source: `config.model` of the run, complete.
      name: the config's; with another than the source's nothing is filled in.
      options: the config's.
      differs: announced options.

    Raises:
      InputError: an unknown option.
    """
    if name not in (AUTO, source["name"]):
        return name, dict(options)
    requested = MODELS.checked(source["name"], options, "config.model")
    own = {"name", *columns.FITTED}
    if name != AUTO:
        known = MODELS.schema(name)
        own |= {*differs, *MODELS.training(name)} | {option for option in source if option not in known}
    if "tokenizer" in own or requested.get("tokenizer"):
        own.add("tokenizer_sha256")
    if not requested.get("neck", 0 if "neck" in own else source.get("neck")):
        own |= {*neck.OPTIONS} - {"neck"}
    kept = {option: value for option, value in source.items() if option not in own}
    if "image" in requested and "image" in differs:
        size = requested["image"]
        changed = _statistics(source, size[2]) | _resize(source, size[:2])
        kept |= {option: value for option, value in changed.items() if option in kept}
    return source["name"], kept | dict(options)


def _sha256(folder: str, stored: Mapping[str, Any]) -> str:
    try:
        return tokenizer_sha256(located(folder))
    except InputError:
        if stored.get("tokenizer") != folder or not stored.get("tokenizer_sha256"):
            raise
        return stored["tokenizer_sha256"]


def agreed(checkpoint: Checkpoint, model_options: Mapping[str, Any], differs: Sequence[str]) -> dict[str, Any]:
    """The checkpoint's options, overridden by training options, announced options and options it does not state.

    Raises:
      InputError: an unknown option, or one that contradicts the checkpoint.
    """
    family, init = checkpoint.layout.family, checkpoint.files.init
    known = MODELS.schema(family)
    for name in differs:
        if name not in known:
            raise InputError(f"config.differs: model {family!r} has no option {name!r}{nearest(name, known)}")
    requested, free = MODELS.checked(family, model_options, "config.model"), MODELS.training(family)
    other = columns.announced(differs)  # the data's, or the config's
    options, contradicting = {name: x for name, x in checkpoint.options.items() if name not in other}, []
    if "image" in requested and ("image" in differs or "image" in checkpoint.soft):
        options |= _statistics(options, requested["image"][2]) | _resize(options, requested["image"][:2])
    for name, value in requested.items():
        stated = options.get(name)
        if name in differs or name in free or name in checkpoint.soft or name not in options:
            options[name] = value
        elif not _same(name, requested, stated, checkpoint):
            contradicting.append(f"{name} is {stated!r} there, {value!r} here")
        elif name == "tokenizer" and value:  # the same tokenizer, at the config's path
            options[name] = value
    if contradicting:
        raise InputError(
            f"config.init={init}: the checkpoint's model is different ({'; '.join(contradicting)}); remove these from "
            "config.model, or announce what may differ in config.differs"
        )
    return options


def _same(name: str, requested: Mapping[str, Any], stated: Any, checkpoint: Checkpoint) -> bool:
    value = requested[name]
    if name in ("mean", "std"):  # one value applies to all channels
        longest = max(len(value), len(stated), 1)
        return value * (longest if len(value) == 1 else 1) == stated * (longest if len(stated) == 1 else 1)
    if name == "tokenizer":  # compared by content
        return not value or requested["tokenizer_sha256"] == checkpoint.options["tokenizer_sha256"]
    return value == stated or (name == "tokenizer_sha256" and (not value or bool(requested.get("tokenizer"))))


def _statistics(options: Mapping[str, Any], channels: int) -> dict[str, tuple[float, ...]]:
    """`mean` and `std` for another number of channels: averaged for one, repeated for more, like inflated kernels."""
    mismatched = {name: options[name] for name in ("mean", "std") if len(options.get(name, ())) not in (0, 1, channels)}
    if channels == 1:
        return {name: (float(np.mean(values)),) for name, values in mismatched.items()}
    return {name: tuple(values[i % len(values)] for i in range(channels)) for name, values in mismatched.items()}


def _resize(options: Mapping[str, Any], size: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """`resize` for another image size, keeping the cropped share of the image."""
    before, resize = options.get("image", (0, 0))[:2], options.get("resize", ())
    if not resize or tuple(before) == tuple(size):
        return {}
    shares = (
        (min(size) / min(before),)
        if len(resize) == 1
        else tuple(new / old for new, old in zip(size, before, strict=True))
    )
    return {"resize": tuple(round(side * share) for side, share in zip(resize, shares, strict=True))}
