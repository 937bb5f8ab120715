"""Reading weights: containers told by their bytes, shards, wrappers, hashes, and one line for whatever is wrong."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import struct
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxfer.errors import InputError
from jaxfer.pretrained.formats.reading import files, read, sha256
from tests.pretrained.torch_archives import new_archive, old_archive, tensor

DATA = Path(os.environ.get("JAXFER_DATA") or Path(__file__).parents[4] / "shared/data")


def raw_safetensors(header: dict | bytes, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file written by hand: header length (uint64), JSON header, data."""
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def f32(*shape: int, at: tuple[int, int]) -> dict:
    return {"dtype": "F32", "shape": list(shape), "data_offsets": list(at)}


def shards(folder: Path, weight_map: dict[str, str], content: dict[str, dict[str, np.ndarray]]) -> Path:
    for name, tensors in content.items():
        if name.endswith(".bin"):
            (folder / name).write_bytes(new_archive({key: tensor(x) for key, x in tensors.items()}))
        else:
            save_file(tensors, folder / name)
    kind = "pytorch_model.bin" if any(name.endswith(".bin") for name in content) else "model.safetensors"
    (folder / f"{kind}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder / f"{kind}.index.json"


def test_safetensors_by_hand(tmp_path):
    values = np.float32([1.5, -2, 3, 4])
    header = {"__metadata__": {"format": "pt"}, "a": f32(2, 2, at=(0, 16)), "s": f32(at=(16, 20))}
    (tmp_path / "x.safetensors").write_bytes(raw_safetensors(header, values.tobytes() + np.float32(7).tobytes()))
    found = read(tmp_path / "x.safetensors")
    assert set(found) == {"a", "s"} and found["a"].tolist() == [[1.5, -2], [3, 4]]
    assert found["s"].shape == () and found["s"] == 7 and not found["a"].flags.writeable
    assert found.unwrapped == found.dropped == ()


@pytest.mark.parametrize(
    "name, dtype", [("F64", "<f8"), ("F16", "<f2"), ("I64", "<i8"), ("I32", "<i4"), ("U8", "u1"), ("BOOL", "?")]
)
def test_safetensors_dtypes(name, dtype, tmp_path):
    values = np.array([1, 0, 1]).astype(dtype)
    header = {"a": {"dtype": name, "shape": [3], "data_offsets": [0, values.nbytes]}}
    (tmp_path / "x.safetensors").write_bytes(raw_safetensors(header, values.tobytes()))
    found = read(tmp_path / "x.safetensors")["a"]
    assert found.dtype == values.dtype and found.tobytes() == values.tobytes()


def test_a_local_file_is_not_copied(tmp_path):
    save_file({"a": np.arange(6, dtype=np.float32).reshape(2, 3)}, tmp_path / "x.safetensors")
    found = read(tmp_path / "x.safetensors")["a"]
    np.testing.assert_array_equal(found, [[0, 1, 2], [3, 4, 5]])
    whole = found
    while isinstance(whole, np.ndarray):
        whole = whole.base
    assert isinstance(whole.obj, mmap.mmap) and not found.flags.writeable


def test_safetensors_bfloat16_keeps_its_bits(tmp_path):
    bits = np.array([0x3F80, 0xC000, 0x7F80, 0x0001], np.uint16)  # 1, -2, inf, the smallest subnormal
    header = {"a": {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8]}}
    (tmp_path / "x.safetensors").write_bytes(raw_safetensors(header, bits.tobytes()))
    found = read(tmp_path / "x.safetensors")["a"]
    assert found.dtype == ml_dtypes.bfloat16 and found.view(np.uint16).tolist() == bits.tolist()
    assert found.astype(np.float32).tolist() == [1, -2, np.inf, 2.0**-133]


@pytest.mark.parametrize(
    "data, message",
    [
        (raw_safetensors({"a": f32(2, at=(0, 8))}, b"\0" * 4), "damaged safetensors"),  # data cut short
        (raw_safetensors({"a": f32(2, at=(0, 8))}, b"\0" * 12), "damaged safetensors"),  # data left over
        (raw_safetensors({"a": f32(3, at=(0, 8))}, b"\0" * 8), "damaged safetensors"),  # shape against offsets
        (raw_safetensors({"a": f32(2, at=(0, 8))}, b"\0" * 8, length=2**62), "damaged safetensors"),
        (raw_safetensors(b"{not json}"), "damaged safetensors"),
        (b"\x01\0\0", "damaged safetensors"),
        (b"", "damaged safetensors"),
        (raw_safetensors({}), "a safetensors file without tensors"),
        (raw_safetensors({"a": {"dtype": "F8_E5M2", "shape": [1], "data_offsets": [0, 1]}}, b"\0"), "a is F8_E5M2"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a git-lfs pointer.*git lfs pull"),
        (b"<!DOCTYPE html><html>", "a web page, not weights; download the file itself"),
    ],
)
def test_damaged_safetensors(data, message, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(InputError, match=rf"model\.safetensors: .*{message}") as caught:
        read(tmp_path / "model.safetensors")
    assert len(str(caught.value).splitlines()) == 1


def test_the_container_is_told_by_its_bytes(tmp_path):
    for name, data in (
        ("zip.safetensors", new_archive({"a": tensor([1.0])})),
        ("stream.weights", old_archive({"a": tensor([1.0])})),
        (
            "safe.bin",
            raw_safetensors({"a": {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}}, struct.pack("d", 1)),
        ),
    ):
        (tmp_path / name).write_bytes(data)
        assert read(tmp_path / name)["a"].tolist() == [1]


@pytest.mark.parametrize("length", [0x80, 0x4B50, ord("<")], ids=["pickle", "zip", "html"])
def test_a_header_length_that_looks_like_another_format(length, tmp_path):
    header = json.dumps({"a": f32(1, at=(0, 4))}).replace(" ", "").encode().ljust(length)
    (tmp_path / "x.bin").write_bytes(raw_safetensors(header, np.float32(5).tobytes()))
    assert len(header) == length and read(tmp_path / "x.bin")["a"].tolist() == [5]


def test_what_is_no_weights_file(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing here but words")
    with pytest.raises(InputError, match="neither safetensors nor a PyTorch archive"):
        read(tmp_path / "notes.txt")
    with pytest.raises(InputError, match=r"note\.txt: no such file; nearest: 'notes\.txt'"):
        read(tmp_path / "note.txt")
    with pytest.raises(InputError, match="expected a weights file, found a folder"):
        read(tmp_path)


def test_npz_is_read_and_what_keras_writes_is_named(tmp_path):
    """JAX's own ViT checkpoints are .npz."""
    values = {"embedding/kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "scale": np.float16([1, 2])}
    np.savez(tmp_path / "x.npz", **values)
    found = read(tmp_path / "x.npz")
    assert set(found) == set(values) and not found["scale"].flags.writeable
    for key, value in values.items():
        np.testing.assert_array_equal(found[key], value, strict=True)
    data = (tmp_path / "x.npz").read_bytes()
    place = data.index(np.float32([1, 2, 3]).tobytes())
    (tmp_path / "x.npz").write_bytes(data[:place] + b"x" + data[place + 1 :])
    with pytest.raises(InputError, match=r"x\.npz: a damaged \.npz \(Bad CRC-32.*\); download it again"):
        read(tmp_path / "x.npz")
    with zipfile.ZipFile(tmp_path / "x.keras", "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", b"")
    with pytest.raises(InputError, match=r"x\.keras: a Keras model, which is not supported; convert it to safetensors"):
        read(tmp_path / "x.keras")
    (tmp_path / "x.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(InputError, match=r"x\.h5: an HDF5 file, as Keras writes, which is not supported; convert it"):
        read(tmp_path / "x.h5")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "model.safetensors")
    for use in (read, sha256):
        with pytest.raises(InputError, match=r"model\.safetensors: expected a weights file, found a pipe, a device"):
            use(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    "content, unwrapped, dropped",
    [
        ({"w": tensor([1.0])}, (), ()),
        ({"module.w": tensor([1.0])}, ("module.",), ()),
        ({"state_dict": {"module.w": tensor([1.0])}, "epoch": 3}, ("state_dict", "module."), ("epoch",)),
        ({"model": {"w": tensor([1.0]), "note": "x"}, "best": tensor(0.5)}, ("model",), ("best", "note")),
        ({"model": {"state_dict": {"w": tensor([1.0])}}}, ("model", "state_dict"), ()),
        (
            {"model_state_dict": {"_orig_mod.module.w": tensor([1.0])}},
            ("model_state_dict", "_orig_mod.", "module."),
            (),
        ),
    ],
)
def test_training_scripts_wrap_their_weights(content, unwrapped, dropped, tmp_path):
    (tmp_path / "x.pth").write_bytes(new_archive(content))
    found = read(tmp_path / "x.pth")
    assert found["w"].tolist() == [1] and len(found) == 1
    assert (found.unwrapped, found.dropped) == (unwrapped, dropped)


def test_a_prefix_of_some_keys_is_a_name(tmp_path):
    (tmp_path / "x.pth").write_bytes(new_archive({"module.w": tensor([1.0]), "w": tensor([2.0])}))
    assert set(read(tmp_path / "x.pth")) == {"module.w", "w"}


@pytest.mark.parametrize(
    "content, message",
    [
        ([tensor([1.0])], "expected a dict of tensors, found a list"),
        ({"epoch": 3, "lr": 0.1}, "expected tensors, directly or under state_dict, .*; found epoch, lr"),
        ({}, "found nothing"),
    ],
)
def test_archives_without_a_state_dict(content, message, tmp_path):
    (tmp_path / "x.pth").write_bytes(new_archive(content))
    with pytest.raises(InputError, match=message):
        read(tmp_path / "x.pth")


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_shards(suffix, tmp_path):
    one, two = f"m-00001-of-00002.{suffix}", f"m-00002-of-00002.{suffix}"
    content = {one: {"b": np.float32([1, 2])}, two: {"a": np.float32([[3]]), "c": np.float32([4])}}
    index = shards(tmp_path, {"a": two, "b": one, "c": two}, content)
    found = read(index)
    assert {key: x.tolist() for key, x in found.items()} == {"a": [[3]], "b": [1, 2], "c": [4]}
    assert [file.name for file in files(index)] == [index.name, one, two]
    (tmp_path / two).unlink()
    with pytest.raises(InputError, match=f"index.json: 1 of 2 shards are not there: {two}"):
        read(index)


def test_shards_that_contradict_their_index(tmp_path):
    name = "model-00001-of-00001.safetensors"
    index = shards(tmp_path, {"a": name, "b": name}, {name: {"a": np.ones(1, np.float32)}})
    with pytest.raises(InputError, match=f"'b' is in the index but not in the shard {name}"):
        read(index)
    index = shards(tmp_path, {"a": name}, {name: {"a": np.ones(1, np.float32), "z": np.ones(1, np.float32)}})
    with pytest.raises(InputError, match=f"'z' is not in the index but in the shard {name}"):
        read(index)
    for weight_map, message in (({"a": "../x.safetensors"}, "expected shards beside the index"), ([], "a weight_map")):
        index.write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(InputError, match=message):
            read(index)
    index.write_text("{")
    with pytest.raises(InputError, match="index.json: not readable as JSON"):
        read(index)


def test_sha256_is_the_files_or_that_of_the_sums(tmp_path):
    (tmp_path / "x.pt").write_bytes(b"abc")
    assert sha256(tmp_path / "x.pt") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2
    name = "model-00001-of-00001.safetensors"
    index = shards(tmp_path, {"a": name}, {name: {"a": np.ones(1, np.float32)}})
    lines = [f"{hashlib.sha256(f.read_bytes()).hexdigest()}  {f.name}\n" for f in (index, tmp_path / name)]
    assert sha256(index) == hashlib.sha256("".join(lines).encode()).hexdigest()


@pytest.mark.skipif(not DATA.exists(), reason=f"needs the shared data: set JAXFER_DATA ({DATA} is not there)")
@pytest.mark.parametrize(
    "name, leaves, key, shape",
    [
        ("cifar10_resnet20", 97, "conv1.weight", (16, 3, 3, 3)),
        ("mobilenet_v1_0.75_224", 164, "classifier.weight", (1000, 768)),
    ],
)
def test_real_weights(name, leaves, key, shape):
    file = DATA / "weights" / name / "model.safetensors"
    found = read(file)
    assert len(found) == leaves and found[key].shape == shape and found[key].dtype == np.float32
    assert all(np.isfinite(x).all() for x in found.values())
    header = json.loads(file.read_bytes()[8 : 8 + struct.unpack("<Q", file.read_bytes()[:8])[0]])
    begin, end = header[key]["data_offsets"]
    start = 8 + struct.unpack("<Q", file.read_bytes()[:8])[0]
    assert found[key].tobytes() == file.read_bytes()[start + begin : start + end]
