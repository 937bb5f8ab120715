"""Recognise third-party checkpoints: choose the layout and read the model's options from its files."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxfer import json_files, schema
from jaxfer.config.experiment import InitOptions
from jaxfer.config.fields import AUTO
from jaxfer.data.encodings.tokenizers import tokenizer_sha256
from jaxfer.errors import InputError
from jaxfer.models.port import Port
from jaxfer.pretrained import adapter, bare, hub, peft_prompts, sentence, stated, timm
from jaxfer.pretrained.families import by_model_type, layouts
from jaxfer.pretrained.formats import containers, reading
from jaxfer.pretrained.hub import CheckpointFiles
from jaxfer.pretrained.layout import Key, Layout
from jaxfer.pretrained.located import USUAL, entry_keys, located_files
from jaxfer.pretrained.sentence import Tail
from jaxfer.registry import MODELS
from jaxfer.runs.tokenizer import stated_length

WRITES = "ForConditionalGeneration"  # transformers' classes of encoder-decoders
# transformers' classes with a head over the vocabulary, by the task that has it.
OVER_WORDS = {"masked_lm": ("ForMaskedLM", "ForPreTraining"), "causal_lm": ("ForCausalLM",), "seq2seq": (WRITES,)}
WORDS = "params/stem/word/embedding"  # the table of tokens of every family of texts
# Pretrained by telling tokens or sounds apart: there is no head over a vocabulary.
DISCRIMINATORS = ("ElectraForPreTraining", "Wav2Vec2ForPreTraining")
UNNAMED = r"LABEL_\d+"  # transformers' placeholder for unnamed classes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A third-party checkpoint whose layout and model options are known.

    Attributes:
      files: where its weights, configuration and tokenizer lie.
      layout: the naming of its tensors.
      options: the port's options stated by its files, all but `outputs`.
      soft: names of options that a config may set freely because the files do not state them.
      outputs: width of its head, 0 without a head.
      labels: names of its classes in order; `()` without a head or without names.
      problem_type: the task in transformers' terms; None if not stated.
      other_head: the class it was saved from if its head does not label whole inputs; such a head is not loaded.
      notes: assumptions and omissions, one line each.
      assumed: options that neither a file states nor the config sets, {option: value}.
    """

    files: CheckpointFiles
    layout: Layout
    options: Mapping[str, Any]
    soft: frozenset[str]
    outputs: int
    labels: tuple[str, ...]
    problem_type: str | None
    other_head: str | None = None
    notes: tuple[str, ...] = ()
    assumed: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def is_foreign(init: Any) -> bool:
    """Whether `config.init` names a third-party checkpoint rather than a jaxfer run or `scratch`."""
    return isinstance(init, str) and init != "scratch" and not init.startswith(("run:", "sibling:"))


def opened(init: str, name: str, model_options: Mapping[str, Any], init_options: InitOptions = USUAL) -> Checkpoint:
    """Opens the checkpoint named by a Hub name (or `name@revision`), a folder or a file.

    Args:
      init: the value of `config.init`.
      name: `config.model.name`: `auto`, or the family, which must be the checkpoint's.
      model_options: options of `config.model`; bare weights need those that tensor shapes do not reveal.
      init_options: location of the weights within their file.

    Raises:
      hub.Absent: no such checkpoint.
      InputError: an unknown architecture or another than `name`, or files that are damaged.
    """
    source, shapes, moved, averages = located_files(init, init_options)
    tail = _tail(source, moved)
    config = {**(source.config or {}), **({"pooling_mode": tail.pool} if tail.pool else {})}
    of_timm = timm.is_timm(config)
    try:
        config |= timm.fields(config) if of_timm else {}
        other = stated.other_head(config)
    except InputError as error:
        raise InputError(f"config.init={init}: {error}") from None
    candidates = _candidates(init, name, config)
    _check_stated(candidates, source, config, shapes)
    tried, errors = [], []
    for layout in candidates:
        try:
            options, soft = _options(layout, source, config, shapes, model_options)
            options |= {**tail.dense, **({"normalize": True} if tail.normalize and source.dense else {})}
            port = MODELS.make(layout.family, outputs=1, **options, **_structure(layout, options, model_options))
            keys = layout.keys(port)
        except InputError as error:
            errors.append(f"{layout.name}: {error}" if len(candidates) > 1 else str(error))
            continue
        lacking = {key.name for key in keys.values()} - _all_names(shapes, layout.prefixes)
        tried.append((len(lacking), layout, options, soft, port, _head(port, keys)))
    if not tried:
        raise InputError(f"config.init={init}: {'; '.join(errors)}")
    _, layout, options, soft, port, head = min(tried, key=lambda entry: entry[0])
    _check_vocabulary(init, layout, port, shapes)
    known = MODELS.schema(layout.family)
    if source.tokenizer and "tokenizer" in known:
        folder = source.tokenizer[0].parent
        options |= {"tokenizer": str(folder), "tokenizer_sha256": tokenizer_sha256(folder)}
    if "max_length" in known and "max_length" in source.marker:
        options["max_length"] = schema.check(source.marker["max_length"], int, f"{hub.MARKER} of {init}: max_length")
    elif "max_length" in known and source.tokenizer:
        longest = stated_length(source.tokenizer[0].parent)
        options["max_length"] = min(options["max_length"], longest or options["max_length"])
    if peft_prompts.method(source) is not None and "max_length" in known:  # the prompts take positions
        room = options["positions"] - peft_prompts.options(source)["tokens"]
        options["max_length"] = max(min(options["max_length"], room), 1)
    if "seconds" in known and "seconds" in source.marker and "seconds" not in options:
        options["seconds"] = schema.check(source.marker["seconds"], float, f"{hub.MARKER} of {init}: seconds")
    if source.adapter is not None and head & moved and options.get("pool") == "mean":
        raise InputError(
            f"{init}: the adapter's head reads a pooler, which its base model does not have; {adapter.MERGE}"
        )
    # config.json describes the weights beside it, not a head loaded from another file.
    told = _stated(source) if head & moved else config
    other = None if head & moved else other
    outputs = next((shapes[key][0] for key in sorted(head) if key in shapes), 0)
    if of_timm and config.get("num_classes", outputs) != outputs:
        raise InputError(f"{init}: config.json states num_classes={config['num_classes']}, its head has {outputs}")
    assumed = stated.assumed(port, options, soft, model_options)
    notes = (
        *guesses(init, assumed),
        *_chosen(init, name, layout, config),
        *_left_out(init, other, tail.normalize and not {"normalize"} & {*options, *model_options}, averages),
    )
    return Checkpoint(
        files=source,
        layout=layout,
        options=options,
        soft=frozenset(soft),
        outputs=0 if other else outputs,
        labels=() if other else _labels(told),
        problem_type=told.get("problem_type"),
        other_head=other,
        notes=notes,
        assumed=assumed,
    )


def guesses(init: str, assumed: Mapping[str, Any]) -> tuple[str, ...]:
    """A line on the options that are assumed, {option: value}, if there are any."""
    values = ", ".join(f"{name}={value!r}" for name, value in assumed.items())
    return (f"{init}: no file states {values}; assuming these, override with config.model.NAME",) if assumed else ()


def _chosen(init: str, name: str, layout: Layout, config: Mapping[str, Any]) -> Iterator[str]:
    """A line where the checkpoint is of several networks and no config says which to read."""
    kind = config.get("model_type")
    if name == AUTO and (others := _on_request(kind)):
        names = " or ".join(others)
        read = f"of model_type {kind!r} the {layout.family} is read"
        yield f"{init}: {read}; config.model.name={names} reads another part of it"


def _left_out(init: str, head: str | None, normalize: bool, averages: Sequence[str]) -> Iterator[str]:
    if head is not None:
        over_words = {} if head in DISCRIMINATORS else OVER_WORDS
        task = next((task for task, classes in over_words.items() if head.endswith(classes)), None)
        only = f"is loaded by the task {task} alone" if task else "is not loaded"
        yield f"{init} is a {head}: its head does not label whole inputs and {only}"
    if normalize:
        yield (
            f"{init}: modules.json scales pooled embeddings to length 1 (Normalize), but the head reads them unscaled; "
            "config.model.normalize=true scales them"
        )
    for name in averages:
        yield f"{init}: the file also holds {name}, which was not read; config.init_options.pick={name} reads it"


def _candidates(init: str, name: str, config: Mapping[str, Any]) -> tuple[Layout, ...]:
    """Layouts that may read the checkpoint: those of the family in config.json, or else of `name`."""
    kind = stated.model_type(config, layouts())
    families = sorted({layout.family for layout in layouts()})
    if kind is None and (classes := stated.architectures(config)):
        raise InputError(
            f"config.json of {init} states architectures={classes!r}, which jaxfer does not read; it reads those of "
            f"{', '.join(families)}: remove the field if the tensors are from such a model"
        )
    if name in _on_request(kind):
        family = name
    else:
        family = by_model_type(kind).family if kind is not None else config.get("family")
    if family in families and name not in (AUTO, family):
        raise InputError(
            f"config.model.name is {name!r} here, config.json of {init} says {family!r}; "
            "set config.model=dict(name='auto')"
        )
    family = family if name == AUTO else name
    if family not in families:
        problem = "no config.json that states the model" if name == AUTO else f"config.model.name={name!r}"
        raise InputError(f"config.init={init}: {problem}; set config.model.name to one of {', '.join(families)}")
    family_layouts = [layout for layout in layouts() if layout.family == family]
    named = [
        layout
        for layout in family_layouts
        if kind in (*layout.model_types, *layout.on_request) or layout.name == config.get("key_layout")
    ]
    return tuple(named or family_layouts)


def _on_request(kind: str | None) -> tuple[str, ...]:
    """Families that read checkpoints of this `model_type` where the config names them."""
    return tuple(layout.family for layout in layouts() if kind in layout.on_request)


def _options(
    layout: Layout,
    source: CheckpointFiles,
    config: Mapping[str, Any],
    shapes: Mapping[str, Any],
    model_options: Mapping[str, Any],
) -> tuple[dict[str, Any], set[str]]:
    """(the port's options, names of options that the files do not state)."""
    known, soft = MODELS.schema(layout.family), set()
    if layout.model_types and config.get("model_type") is None:
        config, soft = bare.facts(layout, shapes, model_options, config)
        soft -= {"image"} if source.preprocessor else set()
    else:
        if not source.preprocessor and "image_size" not in config and "size" not in config.get("input", {}):
            soft.add("image")
        if not layout.model_types and config.get("key_layout") != layout.name:
            soft |= {name for name in layout.guessed if name not in config}
            config = {**({"heads": model_options["heads"]} if "heads" in model_options else {}), **config}
    options = layout.options(config, source.preprocessor or {}, shapes)
    options = {name: schema.check(value, known[name][0], f"{source.init}: {name}") for name, value in options.items()}
    # Without a pooler in the checkpoint, mean pooling of texts is the port's choice.
    chosen = "tokenizer" in known and options.get("pool") == "mean" and "pooling_mode" not in config
    soft |= {"pool"} if chosen else set()
    return options, soft & set(options)


def _structure(layout: Layout, options: Mapping[str, Any], model_options: Mapping[str, Any]) -> dict[str, Any]:
    """Options set by the config alone that may change the names of leaves (a pooler)."""
    known = MODELS.schema(layout.family)
    return {
        name: schema.check(value, known[name][0], f"config.model.{name}")
        for name, value in model_options.items()
        if name in known and name not in options and name not in ("mean", "std", "buckets")
    }


def _tail(source: CheckpointFiles, moved: frozenset[str]) -> Tail:
    """Layers behind the encoder, as sentence-transformers' files state them.

    Empty for an adapter that brings a head: it belongs to a transformers classifier, which pools differently.
    """
    brings = any(not key.startswith(sentence.PREFIX) for key in moved)
    if source.adapter is not None and (brings or source.adapter.config.get("task_type") == "SEQ_CLS"):
        return Tail()
    return source.tail


def _head(port: Port, keys: Mapping[str, Key]) -> frozenset[str]:
    """The checkpoint's keys of the head."""
    return frozenset(key.name for leaf, key in keys.items() if leaf.startswith(f"params/{port.head}/"))


def _stated(source: CheckpointFiles) -> dict[str, Any]:
    """The head as jaxfer.json states it, in the fields of a config.json."""
    labels = source.marker.get("labels") or ()
    return {**source.marker, "id2label": {str(i): name for i, name in enumerate(labels)}}


def _labels(config: Mapping[str, Any]) -> tuple[str, ...]:
    names = config.get("id2label")
    try:
        labels = tuple(str(names[key]) for key in sorted(names, key=int)) if names else ()
    except (TypeError, ValueError):
        raise InputError(f"config.json: expected id2label to map numbers to names, found {names!r}") from None
    return () if all(re.fullmatch(UNNAMED, label) for label in labels) else labels


def _all_names(shapes: Mapping[str, Any], prefixes: Sequence[str]) -> set[str]:
    """Every name under which a key table may list these keys."""
    bare_names = {key.removeprefix(prefix) for key in shapes for prefix in (*prefixes, "")}
    return bare_names | {prefix + key for key in bare_names for prefix in prefixes}


def _check_stated(
    candidates: Sequence[Layout], source: CheckpointFiles, config: Mapping[str, Any], shapes: Mapping[str, Any]
) -> None:
    """Raises `InputError` for a field of the wrong type and for keys that still carry a prefix."""
    for layout in candidates:
        read = ((config, layout.facts, "config.json"), (source.preprocessor, layout.processor, hub.PREPROCESSORS[0]))
        for content, fields, name in read:
            if content and fields is not None:
                json_files.check(content, fields, f"{source.init}: {name}", fix=reading.FIX)
    if hint := containers.hint(shapes, entry_keys(candidates)):
        raise InputError(f"config.init={source.init}: {hint}")


def _check_vocabulary(init: str, layout: Layout, port: Port, shapes: Mapping[str, Any]) -> None:
    """Raises `InputError` where the table of tokens has other rows than config.json says."""
    key = layout.keys(port).get(WORDS)
    names = () if key is None else (key.name, *(key.name.removeprefix(prefix) for prefix in layout.prefixes))
    rows = next((shapes[name][0] for name in names if name in shapes), port.options.vocab if names else 0)
    if names and rows != port.options.vocab:
        raise InputError(
            f"config.init={init}: {key.name} has {rows} rows, config.json states {port.options.vocab} tokens; if the "
            f"vocabulary was changed after training, set vocab_size to {rows} there and give the tokenizer it was "
            "changed with"
        )
