"""Weights from a file: safetensors and PyTorch archives, one file or shards with an index, to {key: array}.

The container is told by its first bytes, not by its name. Nothing is cast: a bfloat16 tensor stays bfloat16.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
from etils import epath

from jaxfer.errors import InputError, nearest
from jaxfer.pretrained.formats import archives

INDEX = ".index.json"
WRAPPERS = ("state_dict", "model_state_dict", "model")  # where training scripts put the state dict
PREFIXES = ("module.", "_orig_mod.")  # what DataParallel and torch.compile put before every key
ARCHIVE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".tar", ".pkl")
DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights(Mapping[str, np.ndarray]):
    """The tensors of a checkpoint by their key; read-only arrays, some of which may share memory.

    Attributes:
      tensors: {key: array}.
      unwrapped: what was taken off to get at them, outermost first (`state_dict`, `module.`).
      dropped: what else the file holds: an epoch, an optimizer.
      merged: {key: module of an adapter} where its update was added.
      moved: {key: key elsewhere} of those that come from another file than the checkpoint's own.
    """

    tensors: Mapping[str, np.ndarray]
    unwrapped: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    merged: Mapping[str, str] = dataclasses.field(default_factory=dict)
    moved: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __getitem__(self, key: str) -> np.ndarray:
        return self.tensors[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def read(path: str | epath.Path) -> Weights:
    """The tensors of a weights file, or of all shards that an index names.

    Args:
      path: a safetensors file, a PyTorch archive, or a `*.index.json`.

    Raises:
      InputError: no such file, a format that is not read, a damaged file, a pickle with code in it, missing shards.
    """
    path = epath.Path(path)
    if not path.name.endswith(INDEX):
        return _strip(_read_file(path))
    shards = _shards(path)
    read = {name: _read_file(path.parent / name) for name in sorted(set(shards.values()))}
    for name, weights in read.items():
        listed = {key for key, shard in shards.items() if shard == name}
        if listed != set(weights):
            odd = sorted(listed ^ set(weights))
            where = "is in the index but not in" if odd[0] in listed else "is not in the index but in"
            raise InputError(f"{path}: {odd[0]!r} {where} the shard {name} ({len(odd)} such keys); download both again")
    return _strip(
        Weights(
            tensors={key: read[name][key] for key, name in shards.items()},
            dropped=tuple(entry for weights in read.values() for entry in weights.dropped),
        )
    )


def files(path: str | epath.Path) -> tuple[epath.Path, ...]:
    """The files that `read` reads: the one, or the index and its shards."""
    path = epath.Path(path)
    shards = sorted(set(_shards(path).values())) if path.name.endswith(INDEX) else []
    return (path, *(path.parent / name for name in shards))


def sha256(path: str | epath.Path) -> str:
    """What a source is called by: the sha256 of its file, or of the lines `sha256  name` of its index and shards."""
    sums = [(_sha256(file), file.name) for file in files(path)]
    return sums[0][0] if len(sums) == 1 else sha256_of(sums)


def sha256_of(sums: Iterable[tuple[str, str]]) -> str:
    """The sha256 of several files together: of the lines `sha256  name`, as sha256sum prints them."""
    return hashlib.sha256("".join(f"{digest}  {name}\n" for digest, name in sums).encode()).hexdigest()


def read_json(path: epath.Path) -> dict[str, Any]:
    """The object in a JSON file of a checkpoint."""
    try:
        content = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: no readable JSON ({_line(error)}); download it again") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object, found a {type(content).__name__}; download it again")
    return content


def _sha256(path: epath.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _shards(index: epath.Path) -> dict[str, str]:
    """{key: file name}; every file is there."""
    if not index.exists():
        raise InputError(f"{index}: no such file")
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not shards or not all(isinstance(name, str) for name in shards.values()):
        raise InputError(f"{index}: expected an index with a weight_map of {{key: file}}; download it again")
    names = set(shards.values())
    for name in sorted(names):
        if epath.Path(name).name != name:  # an index must not reach out of its folder
            raise InputError(f"{index}: expected shards beside the index, found {name!r}")
    missing = sorted(name for name in names if not (index.parent / name).exists())
    if missing:
        raise InputError(f"{index}: {len(missing)} of {len(names)} shards are not there: {', '.join(missing[:3])}")
    return shards


def _read_file(path: epath.Path) -> Weights:
    if path.is_dir():
        raise InputError(f"{path}: expected a weights file, found a folder; give a file in it")
    if not path.exists():
        known = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
        raise InputError(f"{path}: no such file{nearest(path.name, known)}")
    with path.open("rb") as file:
        head = file.read(64)
    if head[8:9] == b"{":  # asked first: the eight bytes of length before it may look like anything
        return _read_safetensors(path)
    if head[:2] == b"PK" or head[:1] == b"\x80":
        return _read_archive(path)
    if head.startswith(b"version https://git-lfs"):
        raise InputError(f"{path}: a git-lfs pointer, not the weights; run `git lfs pull` in its repository")
    if head[:1] == b"<":
        raise InputError(f"{path}: a web page, not weights; download the file itself (its `raw` or `resolve` address)")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix in ARCHIVE_SUFFIXES:
        return _read_archive(path)
    raise InputError(f"{path}: neither safetensors nor a PyTorch archive; convert it to safetensors")


def _read_safetensors(path: epath.Path) -> Weights:
    try:
        entries = safetensors.deserialize(path.read_bytes())
    except safetensors.SafetensorError as error:
        raise InputError(f"{path}: a damaged safetensors file ({_line(error)}); download it again") from None
    tensors = {}
    for key, entry in entries:
        if entry["dtype"] not in DTYPES:
            raise InputError(f"{path}: {key} is {entry['dtype']}, which is not read; known: {', '.join(DTYPES)}")
        tensors[key] = np.frombuffer(entry["data"], DTYPES[entry["dtype"]]).reshape(entry["shape"])
        tensors[key].flags.writeable = False
    if not tensors:
        raise InputError(f"{path}: a safetensors file without tensors")
    return Weights(tensors=tensors)


def _read_archive(path: epath.Path) -> Weights:
    try:
        with path.open("rb") as file, archives.plain_errors():
            state, unwrapped, beside = _unwrap(archives.load(file))
            found = {key: value for key, value in state.items() if isinstance(value, archives.LazyTensor)}
            tensors = {str(key): value.array() for key, value in found.items()}
    except archives.Corrupted as error:
        raise InputError(f"{path}: a damaged PyTorch archive ({error}); download or save it again") from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    dropped = (*beside, *(str(key) for key in state if key not in found))
    return Weights(tensors=tensors, unwrapped=unwrapped, dropped=dropped)


def _unwrap(content: Any) -> tuple[Mapping[str, Any], tuple[str, ...], tuple[str, ...]]:
    """The state dict in what a training script saved, the keys that lead to it, and what lies beside those."""
    path, beside = (), ()
    while isinstance(content, Mapping) and len(path) < 4:
        inner = next((key for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        beside = (*beside, *(str(key) for key in content if key != inner))
        content, path = content[inner], (*path, inner)
    if not isinstance(content, Mapping):
        raise InputError(f"expected a dict of tensors, found a {type(content).__name__}; {archives.SAVE_AGAIN}")
    if not any(isinstance(value, archives.LazyTensor) for value in content.values()):
        found = ", ".join(map(str, list(content)[:5])) or "nothing"
        raise InputError(f"no tensors there nor under {', '.join(WRAPPERS)}; found {found}; {archives.SAVE_AGAIN}")
    return content, path, beside


def _strip(weights: Weights) -> Weights:
    """Without the prefixes that wrappers of a module put before every key."""
    tensors, unwrapped = weights.tensors, weights.unwrapped
    while prefix := next((p for p in PREFIXES if all(key.startswith(p) for key in tensors)), None):
        tensors, unwrapped = {key[len(prefix) :]: x for key, x in tensors.items()}, (*unwrapped, prefix)
    return dataclasses.replace(weights, tensors=tensors, unwrapped=unwrapped)


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
