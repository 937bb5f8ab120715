"""Read weights as {key: array} from safetensors, PyTorch archives, .npz, CTranslate2, ONNX: a file, or indexed shards.

The first bytes of a file decide its format, not its name. Nothing is cast: a bfloat16 tensor stays bfloat16.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import mmap
import os
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np
import safetensors
from etils import epath

from jaxfer import json_files, npz_files
from jaxfer.errors import InputError, nearest
from jaxfer.pretrained.formats import archives, containers, ctranslate2, onnx

INDEX = ".index.json"
FIX = "correct it, or download it again"
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
      unwrapped: keys and prefixes removed to reach them, outermost first (`state_dict`, `module.`).
      dropped: other entries of the file: an epoch, an optimizer.
      merged: {key: module of an adapter} for tensors to which its update was added.
      moved: {key: original key} for tensors renamed or read from another file.
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


def read(path: str | epath.Path, *, pick: str = "") -> Weights:
    """Reads the tensors of a weights file, or of all shards that an index names.

    Args:
      path: a safetensors file, a PyTorch archive, or a `*.index.json`.
      pick: keys, separated by slashes, that lead to the state dict in an archive; "" to search for it.

    Raises:
      InputError: no such file, an unsupported format, a damaged file, a pickle with code in it, or missing shards.
    """
    path = epath.Path(path)
    if not path.name.endswith(INDEX):
        return _bare(_read_file(path, pick))
    shards = _shards(path)
    read = {name: _read_file(path.parent / name, pick) for name in sorted(set(shards.values()))}
    for name, weights in read.items():
        listed = {key for key, shard in shards.items() if shard == name}
        if listed != set(weights):
            odd = sorted(listed ^ set(weights))
            where = "is in the index but not in" if odd[0] in listed else "is not in the index but in"
            raise InputError(f"{path}: {odd[0]!r} {where} the shard {name} ({len(odd)} such keys); download both again")
    return _bare(
        Weights(
            tensors={key: read[name][key] for key, name in shards.items()},
            dropped=tuple(entry for weights in read.values() for entry in weights.dropped),
        )
    )


def files(path: str | epath.Path) -> tuple[epath.Path, ...]:
    """The files that `read` reads: the file itself, or the index and its shards."""
    path = epath.Path(path)
    shards = sorted(set(_shards(path).values())) if path.name.endswith(INDEX) else []
    return (path, *(path.parent / name for name in shards))


def sha256(path: str | epath.Path) -> str:
    """The hash that identifies a source: of its file, or of the lines `sha256  name` of its index and shards."""
    sums = [(_sha256(file), file.name) for file in files(path)]
    return sums[0][0] if len(sums) == 1 else sha256_of(sums)


def sha256_of(sums: Iterable[tuple[str, str]]) -> str:
    """The sha256 of several files: the hash of the lines `sha256  name`, as sha256sum prints them."""
    return hashlib.sha256("".join(f"{digest}  {name}\n" for digest, name in sums).encode()).hexdigest()


def read_json(path: epath.Path, fields: type | None = None) -> dict[str, Any]:
    """Reads the object in a checkpoint's JSON file and checks its `fields` (a TypedDict)."""
    return json_files.read(path, fields, fix=FIX)


def _opened(path: epath.Path) -> BinaryIO:
    """Opens a file for reading; refuses pipes, which would block."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise InputError(f"{path}: expected a weights file, found a pipe, a device or a folder; give a file")
    return path.open("rb")


def _sha256(path: epath.Path) -> str:
    with _opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _shards(index: epath.Path) -> dict[str, str]:
    """{key: file name} of an index; raises `InputError` unless every shard exists."""
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


def _read_file(path: epath.Path, pick: str) -> Weights:
    if path.is_dir():
        raise InputError(f"{path}: expected a weights file, found a folder; give a file in it")
    if not path.exists():
        known = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
        raise InputError(f"{path}: no such file{nearest(path.name, known)}")
    with _opened(path) as file:
        head = file.read(64)
    if pick and head[:2] != b"PK" and head[:1] != b"\x80":
        raise InputError(f"{path}: config.init_options.pick={pick!r} is for PyTorch archives; remove it")
    if head[8:9] == b"{":  # checked first: the preceding length may resemble any magic number
        return _read_safetensors(path)
    if head[:2] == b"PK" and (kind := _other_zip(path)) is not None:
        if kind == "npz":
            return _read_npz(path)
        raise InputError(f"{path}: {kind}, which is not supported; convert it to safetensors")
    if head[:4] == b"\x89HDF":
        raise InputError(f"{path}: an HDF5 file, as Keras writes, which is not supported; convert it to safetensors")
    if head[:2] == b"PK" or head[:1] == b"\x80":
        return _read_archive(path, pick)
    if head.startswith(b"version https://git-lfs"):
        raise InputError(f"{path}: a git-lfs pointer, not the weights; run `git lfs pull` in its repository")
    if head[:1] == b"<":
        raise InputError(f"{path}: a web page, not weights; download the file itself (its `raw` or `resolve` address)")
    if ctranslate2.begins(head):
        return _read_ctranslate2(path)
    if onnx.begins(head):
        return _read_onnx(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix in ARCHIVE_SUFFIXES:
        return _read_archive(path, pick)
    raise InputError(f"{path}: neither safetensors nor a PyTorch archive; convert it to safetensors")


def _read_safetensors(path: epath.Path) -> Weights:
    """Tensors of a local file are views of its pages: none of it is copied before it goes to a device."""
    try:
        entries = list(_mapped(path) if os.path.isfile(path) else _entries(path.read_bytes()))
    except safetensors.SafetensorError as error:
        raise InputError(f"{path}: a damaged safetensors file ({_line(error)}); download it again") from None
    tensors = {}
    for key, dtype, shape, data in entries:
        if dtype not in DTYPES:
            raise InputError(f"{path}: {key} is {dtype}, which is not supported; known: {', '.join(DTYPES)}")
        tensors[key] = np.frombuffer(data, DTYPES[dtype]).reshape(shape)
        tensors[key].flags.writeable = False
    if not tensors:
        raise InputError(f"{path}: a safetensors file without tensors")
    return Weights(tensors=tensors)


def _mapped(path: epath.Path) -> Iterator[tuple[str, str, list[int], memoryview]]:
    """(key, type, shape, bytes) of each tensor; the library checks the header, which then says where they lie."""
    with safetensors.safe_open(path, framework="numpy"), open(path, "rb") as file:
        content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    begin = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(bytes(content[8:begin]))
    for key, entry in sorted(header.items(), key=lambda item: item[1].get("data_offsets", [0])):
        if key != "__metadata__":
            first, last = entry["data_offsets"]
            yield key, entry["dtype"], entry["shape"], content[begin + first : begin + last]


def _entries(content: bytes) -> Iterator[tuple[str, str, list[int], bytes]]:
    for key, entry in safetensors.deserialize(content):
        yield key, entry["dtype"], entry["shape"], entry["data"]


def _other_zip(path: epath.Path) -> str | None:
    """The kind of a zip file that torch did not write; None for a PyTorch archive or a damaged zip."""
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return None
    if names and all(name.endswith(".npy") for name in names):
        return "npz"
    return "a Keras model" if "model.weights.h5" in names else None


def _read_npz(path: epath.Path) -> Weights:
    try:
        with path.open("rb") as file:
            tensors = npz_files.read(file)
    except ValueError as error:
        raise InputError(f"{path}: a damaged .npz ({error}); download it again") from None
    for array in tensors.values():
        array.flags.writeable = False
    return Weights(tensors=tensors)


def _read_ctranslate2(path: epath.Path) -> Weights:
    try:
        return Weights(tensors=ctranslate2.read(path.read_bytes()))
    except ValueError as error:
        raise InputError(f"{path}: a damaged CTranslate2 model ({error}); download it again") from None


def _read_onnx(path: epath.Path) -> Weights:
    try:
        tensors, constants = onnx.read(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path}: an ONNX model that can't be read ({error}); download it again") from None
    return Weights(tensors=tensors, dropped=constants)


def _read_archive(path: epath.Path, pick: str) -> Weights:
    try:
        with path.open("rb") as file, archives.plain_errors():
            state, unwrapped, beside = containers.unwrapped(archives.load(file), pick)
            lazy = {key: value for key, value in state.items() if isinstance(value, archives.LazyTensor)}
            tensors = {str(key): value.array() for key, value in lazy.items()}
    except archives.Corrupted as error:
        raise InputError(f"{path}: a damaged PyTorch archive ({error}); download or save it again") from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    dropped = (*beside, *(str(key) for key in state if key not in lazy))
    return Weights(tensors=tensors, unwrapped=unwrapped, dropped=dropped)


def _bare(weights: Weights) -> Weights:
    """Removes the prefixes that module wrappers add to every key."""
    return without(weights, *containers.without_wrappers(weights))


def without(weights: Weights, *prefixes: str) -> Weights:
    """Strips the joined prefixes from the keys; tensors without them are recorded as dropped."""
    before = "".join(prefixes)
    if not before:
        return weights
    return dataclasses.replace(
        weights,
        tensors={key[len(before) :]: x for key, x in weights.items() if key.startswith(before)},
        unwrapped=(*weights.unwrapped, *prefixes),
        dropped=(*weights.dropped, *(key for key in weights if not key.startswith(before))),
    )


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
