"""Locate a checkpoint's files: in a local folder, as a single file, or on the Hugging Face Hub.

A `peft` adapter is located together with its base checkpoint.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from typing import Any, TypedDict

from etils import epath

from jaxfer import files
from jaxfer.config import experiment
from jaxfer.data.encodings.tokenizers import TOKENIZER_FILES
from jaxfer.errors import InputError, nearest
from jaxfer.hub_download import Absent, snapshot
from jaxfer.pretrained import sentence
from jaxfer.pretrained.formats import reading
from jaxfer.pretrained.sentence import DENSE, POOLING, Tail
from jaxfer.runs.folder import holds_run

# In order of preference; pickles only as a last resort.
SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
ARCHIVES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
ADAPTER_CONFIG, ADAPTERS = "adapter_config.json", ("adapter_model.safetensors", "adapter_model.bin")
MARKER = "jaxfer.json"  # marks our exports and stores what the format cannot express
SENTENCE = "sentence-transformers"  # the export format whose head is stored in DENSE
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
# Files that trainers write beside a model, and adapters, which are not models.
NOT_WEIGHTS = r"(optimizer|scheduler|scaler|rng_state.*|training_args|adapter_model.*)\.\w+|.*-\d+-of-\d+\.\w+"
PREPROCESSORS = ("preprocessor_config.json", "processor_config.json")
DOWNLOADS = (
    (
        *("config.json", ADAPTER_CONFIG, ADAPTERS[0], POOLING, DENSE, MARKER, sentence.MODULES),
        *(
            "*_Pooling/config.json",
            "*_Dense/config.json",
            "*_Dense/model.safetensors",
            "0_Transformer/*.json",
            "0_Transformer/*.txt",
        ),
        *(
            "0_Transformer/model*.safetensors",
            *PREPROCESSORS,
            *TOKENIZER_FILES,
            *SAFETENSORS,
            "model-*-of-*.safetensors",
        ),
    ),
    (*ARCHIVES, ADAPTERS[1], "pytorch_model-*-of-*.bin", "*_Dense/pytorch_model.bin", "0_Transformer/pytorch_model*"),
)
HUB_NAME = r"[\w][\w.-]*(/[\w][\w.-]*)?"


class TimmConfig(TypedDict, total=False):
    """`pretrained_cfg` of a timm folder's config.json: how its images are prepared."""

    interpolation: str | None
    crop_mode: str | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None


class Config(TypedDict, total=False):
    """The fields of any config.json; those of a family are its layout's `facts`."""

    model_type: str | None
    architectures: tuple[str, ...] | None
    problem_type: str | None
    id2label: Mapping[str, str | int | float | bool | None] | None
    family: str
    key_layout: str
    architecture: str | None
    pretrained_cfg: TimmConfig | None


class Processor(TypedDict, total=False):
    """The field of processor_config.json that holds what would be preprocessor_config.json."""

    image_processor: Mapping[str, Any]


class Marker(TypedDict, total=False):
    """The fields of an export's jaxfer.json that are read."""

    format: str
    task: str
    problem_type: str | None
    labels: tuple[str, ...]
    max_length: int


class AdapterConfig(TypedDict, total=False):
    """The fields of adapter_config.json that are read."""

    peft_type: str
    base_model_name_or_path: str | None
    revision: str | None
    task_type: str | None
    r: int | None
    lora_alpha: float | None
    rank_pattern: Mapping[str, int | tuple[bool, ...]] | None
    alpha_pattern: Mapping[str, float] | None
    use_rslora: bool | None
    use_dora: bool | None
    alpha: float | None
    feedforward_modules: tuple[str, ...] | str | None
    use_cayley_neumann: bool | None
    num_cayley_neumann_terms: int | None
    modules_to_save: tuple[str, ...] | None
    bias: str
    init_lora_weights: bool | str | None
    lora_bias: bool | None
    init_r: int | None
    projection_prng_key: int | None
    save_projection: bool | None
    block_share: bool | None
    coft: bool | None
    eps: float | None
    apply_GS: bool | None
    scaling: float | None
    random_loc_seed: int | None
    token_indices: tuple[int, ...] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adapter:
    """The files of a `peft` adapter.

    Attributes:
      weights: its tensors.
      config: its adapter_config.json.
      base: the files of its base checkpoint.
    """

    weights: epath.Path
    config: dict[str, Any]
    base: CheckpointFiles


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointFiles:
    """A checkpoint's files on this machine.

    Attributes:
      init: its name in `config.init`.
      weights: the weights file, or the index of its shards; for an adapter, the base's.
      sha256: hash of all weights; identifies the source in ledgers and lineage.
      config: its config.json, None for a bare file without one; for an adapter, the base's.
      preprocessor: its preprocessor_config.json (or the image processor in processor_config.json), None likewise.
      tokenizer: its tokenizer files, () without any.
      commit: the Hub's commit, None for local files.
      marker: its jaxfer.json, {} if it is not a jaxfer export.
      options: location of the weights within their file.
      adapter: the adapter to merge into the weights.
      dense: the last dense layer of a sentence-transformers export, which holds the head; else None.
      tail: sentence-transformers' layers behind the encoder; for an adapter, the base's.
    """

    init: str
    weights: epath.Path
    sha256: str
    config: dict[str, Any] | None = None
    preprocessor: dict[str, Any] | None = None
    tokenizer: tuple[epath.Path, ...] = ()
    commit: str | None = None
    marker: dict[str, Any] = dataclasses.field(default_factory=dict)
    options: experiment.InitOptions = experiment.InitOptions()
    adapter: Adapter | None = None
    dense: epath.Path | None = None
    tail: Tail = dataclasses.field(default_factory=Tail)


def find(init: str, *, revision: str | None = None) -> CheckpointFiles:
    """Finds the files of a folder, a file or a Hub name; an existing path takes precedence over a Hub name.

    Args:
      init: `./folder`, `file.pth`, or `google/vit-base-patch16-224`.
      revision: branch, tag or commit on the Hub; None: main.

    Raises:
      Absent: no such checkpoint, no weights, or an unreachable Hub.
      InputError: several weights files, damaged JSON, or an adapter with an unusable base.
    """
    path = located(init)
    if path.exists():
        if revision is not None:
            raise InputError(f"revision={revision!r} is for the Hub, but {init} is a local path; remove the revision")
        return _folder(init, path) if path.is_dir() else _file(init, path)
    if _looks_like_path(init):
        parent = path.parent
        known = [str(parent / entry.name) for entry in parent.iterdir()] if parent.is_dir() else []
        tail = nearest(init, known) if known else f"; there is no folder {parent} either"
        raise Absent(f"{init}: no such folder or file{tail}")
    return _hub(init, revision)


def located(init: str) -> epath.Path:
    """The local path a checkpoint's name refers to, existing or not; raises `InputError` for an unsupported URL."""
    if "://" in init and not init.startswith(tuple(f"{scheme}://" for scheme in files.STORES)):
        page = re.fullmatch(rf"https?://(?:www\.)?huggingface\.co/({HUB_NAME})/?", init)
        fix = f"give its name, {page[1]}" if page else "download it and give the file"
        raise InputError(f"{init}: expected a folder, a file or a Hub name, found an address; {fix}")
    return files.opened(os.path.expanduser(init))


def base_of(folder: epath.Path, config: Mapping[str, Any]) -> tuple[str, str | None]:
    """(name, revision) of an adapter's base; a relative path may start from the adapter's folder.

    Raises:
      InputError: the adapter names no base.
    """
    name = config.get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise InputError(f"{folder / ADAPTER_CONFIG} names no base model; set base_model_name_or_path")
    try:
        path, beside = located(name), folder / name
    except InputError as error:
        raise InputError(f"{folder / ADAPTER_CONFIG}: base_model_name_or_path: {error}") from None
    if not path.exists() and beside.exists():
        return str(beside), None
    return name, None if path.exists() else config.get("revision")


def _looks_like_path(init: str) -> bool:
    return init.startswith((".", "/", "~")) or init.endswith((*SUFFIXES, ".json")) or not re.fullmatch(HUB_NAME, init)


def _file(init: str, path: epath.Path) -> CheckpointFiles:
    if path.name in (*ADAPTERS, ADAPTER_CONFIG):
        raise InputError(f"{init}: part of a peft adapter; give its folder")
    if re.fullmatch(r".*-\d+-of-\d+\.\w+", path.name):
        raise InputError(f"{init}: one shard of several; give its folder or its .index.json")
    if path.suffix == ".json" and not path.name.endswith(reading.INDEX):
        raise InputError(f"{init}: expected weights, found a JSON file; give its folder")
    # A config.json belongs to a weights file with a standard name; beside any other file it may be another model's.
    return _read_config_files(init, path, path.parent if path.name in (*SAFETENSORS, *ARCHIVES) else None)


def _folder(init: str, folder: epath.Path, commit: str | None = None) -> CheckpointFiles:
    names = sorted(entry.name for entry in folder.iterdir())
    standard = [name for name in (*SAFETENSORS, *ARCHIVES) if name in names]
    if ADAPTER_CONFIG in names:
        if standard:
            raise InputError(
                f"{init}: both an adapter and a model ({standard[0]}); give that file, or move {ADAPTER_CONFIG} and "
                "the adapter's weights to a folder of their own"
            )
        return _adapted(init, folder, commit)
    if standard:
        return _read_config_files(init, folder / standard[0], folder, commit)
    others = [name for name in names if name.endswith(SUFFIXES) and not re.fullmatch(NOT_WEIGHTS, name)]
    chosen = [name for name in others if name.endswith(".safetensors")] or others
    if len(chosen) > 1:
        raise InputError(f"{init}: {len(chosen)} weights files ({', '.join(chosen[:4])}); give one of them")
    if not chosen and (inner := sentence.encoder(folder)) is not None and inner.is_dir():
        return _folder(init, inner, commit)
    if not chosen and holds_run(folder):
        raise Absent(f"{init}: a run of jaxfer and no checkpoint; start from it by config.init=run:{init}")
    if not chosen:
        problem = (
            f"an adapter without {ADAPTER_CONFIG}" if set(ADAPTERS) & set(names) else "no weights that jaxfer reads"
        )
        listing = ", ".join(names[:8]) or "nothing"
        expected = "model.safetensors, pytorch_model.bin or an index of shards"
        raise Absent(f"{init}: {problem}; expected {expected}, found {listing}")
    return _read_config_files(init, folder / chosen[0], folder, commit)


def _adapted(init: str, folder: epath.Path, commit: str | None) -> CheckpointFiles:
    """An adapter with its base; the adapter's tokenizer and preprocessor take precedence."""
    weights = next((folder / name for name in ADAPTERS if (folder / name).exists()), None)
    if weights is None:
        raise Absent(f"{init}: an adapter without weights; expected {' or '.join(ADAPTERS)} beside {ADAPTER_CONFIG}")
    adapter_files = _read_config_files(init, weights, folder, commit)
    config = reading.read_json(folder / ADAPTER_CONFIG, AdapterConfig)
    name, revision = base_of(folder, config)
    try:
        if name == init or folder == located(name):
            raise InputError("the adapter itself; name the model that it was trained on")
        base = find(name, revision=revision)
        if base.adapter is not None:
            raise InputError("an adapter too; merge that one, and name the merged model")
    except InputError as error:
        raise type(error)(f"{init}: the adapter's base model {name!r}: {error}") from None
    if base.config is None:
        raise InputError(f"{init}: the adapter's base model {name!r} has no config.json; give it one")
    sums = [(base.sha256, "base"), (adapter_files.sha256, weights.name)]
    sums.append((reading.sha256(folder / ADAPTER_CONFIG), ADAPTER_CONFIG))
    return dataclasses.replace(
        adapter_files,
        weights=base.weights,
        sha256=reading.sha256_of(sums),
        config=base.config,
        preprocessor=base.preprocessor if adapter_files.preprocessor is None else adapter_files.preprocessor,
        tokenizer=adapter_files.tokenizer or base.tokenizer,
        tail=base.tail,
        adapter=Adapter(weights=weights, config=config, base=base),
    )


def _read_config_files(
    init: str, weights: epath.Path, folder: epath.Path | None, commit: str | None = None
) -> CheckpointFiles:
    def content(name: str, fields: type | None = None) -> dict[str, Any] | None:
        exists = folder is not None and (folder / name).exists()
        return reading.read_json(folder / name, fields) if exists else None

    preprocessor = content(PREPROCESSORS[0])
    if preprocessor is None and (processor := content(PREPROCESSORS[1], Processor)) is not None:
        preprocessor = processor.get("image_processor", processor)
    marker = content(MARKER, Marker) or {}
    dense = folder / DENSE if marker.get("format") == SENTENCE and (folder / DENSE).exists() else None
    config = content("config.json", Config)
    tail = sentence.tail(folder, headed=dense is not None) if config is not None else Tail()
    sums = [(reading.sha256(weights), weights.name)]
    sums += [(reading.sha256(dense), DENSE)] if dense is not None else []
    sums += [(reading.sha256(tail.weights), f"{tail.weights.parent.name}/{tail.weights.name}")] if tail.weights else []
    return CheckpointFiles(
        init=init,
        weights=weights,
        sha256=sums[0][0] if len(sums) == 1 else reading.sha256_of(sums),
        config=config,
        preprocessor=preprocessor,
        tokenizer=tuple(folder / name for name in TOKENIZER_FILES if (folder / name).exists()) if folder else (),
        commit=commit,
        marker=marker,
        dense=dense,
        tail=tail,
    )


def _hub(name: str, revision: str | None) -> CheckpointFiles:
    """Downloads the needed files into the Hub's cache; pickles only if a repository lacks safetensors."""
    for patterns in DOWNLOADS:
        folder = epath.Path(snapshot(name, revision, patterns))
        places = [folder, *folder.glob("0_Transformer")]
        whole = any((place / name).exists() for place in places for name in (*SAFETENSORS, *ARCHIVES, *ADAPTERS))
        if whole and all((dense / sentence.WEIGHTS[0]).exists() for dense in folder.glob("*_Dense")):
            break
    return _folder(name, folder, commit=folder.name)
