"""PyTorch archives: every dtype and layout of a tensor in both containers, and that nothing in them is ever run."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from jaxfer.errors import InputError
from jaxfer.pretrained.formats import archives
from jaxfer.pretrained.formats.reading import read
from tests.pretrained.torch_archives import Call, Tensor, new_archive, old_archive, tensor

GOLDEN = Path(__file__).parents[1] / "golden"
WRITERS = {"new": new_archive, "old": old_archive}
both = pytest.mark.parametrize("container", WRITERS)


def arrays(data: bytes) -> dict[str, np.ndarray]:
    return {key: value.array() for key, value in archives.load(io.BytesIO(data)).items()}


def same(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == expected.dtype and found.shape == expected.shape
    assert found.tobytes() == expected.tobytes()


@both
def test_files_of_a_real_torch(container):
    """golden/*.pt by torch 2.13 (make_golden_archives.py); the values are written out here a second time."""
    base = np.arange(24, dtype=np.float32)
    expected = {
        "f32": base.reshape(2, 3, 4) / 8,
        "transposed": base.reshape(4, 6).T,
        "window": base[5:17].reshape(3, 4)[:, 1:3],
        "expanded": np.array([[1, 2]] * 3, np.float32),
        "f64": np.array([1 / 3]),
        "half": np.array([0.1, -2], np.float16),
        "bf16": np.array([[0x3DCD], [0x7F62]], np.uint16).view(ml_dtypes.bfloat16),  # 0.1 and 3e38, rounded to even
        "int64": np.array([-(2**40), 7]),
        "int32": np.array([3], np.int32),
        "uint8": np.array([255], np.uint8),
        "int8": np.array([-1], np.int8),
        "bool": np.array([True, False]),
        "scalar": np.array(5),
        "empty": np.zeros((0, 3), np.float32),
        "parameter": np.array([1.5, 2.5], np.float32),
        "norm.weight": np.ones(2, np.float32),
        "norm.bias": np.zeros(2, np.float32),
        "norm.running_mean": np.zeros(2, np.float32),
        "norm.running_var": np.ones(2, np.float32),
        "norm.num_batches_tracked": np.array(0),
    }
    found = read(GOLDEN / f"{container}.pt")
    assert list(found) == list(expected)
    for key, value in expected.items():
        same(found[key], value)


@both
def test_a_training_file_of_a_real_torch_is_unwrapped(container):
    found = read(GOLDEN / f"training_{container}.pt")
    assert set(found) == {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
    assert found.unwrapped == ("state_dict", "module.") and found.dropped == ("epoch", "best", "arch")


def test_a_whole_module_is_refused():
    with pytest.raises(InputError, match=r"refused: global torch\.nn\.modules\.linear\.Linear; save it again"):
        read(GOLDEN / "whole_module.pt")


@both
@pytest.mark.parametrize(
    "dtype", ["<f8", "<f4", "<f2", ml_dtypes.bfloat16, "<i8", "<i4", "<i2", "i1", "u1", "?"], ids=str
)
def test_every_dtype(container, dtype):
    values = np.array([[0, 1, 3], [100, 0, 1]]).astype(dtype)
    same(arrays(WRITERS[container]({"x": tensor(values)}))["x"], values)


@both
def test_windows_on_one_storage_share_it(container):
    flat = np.arange(12, dtype=np.float32)
    views = {
        "all": Tensor(flat, (3, 4), (4, 1)),
        "transposed": Tensor(flat, (4, 3), (1, 4)),
        "column": Tensor(flat, (3,), (4,), 2),
        "one": Tensor(flat, (), (), 11),
        "repeated": Tensor(flat, (2, 2), (0, 1), 4),
        "empty": Tensor(flat, (2, 0), (1, 1), 12),
    }
    found = arrays(WRITERS[container](OrderedDict(views)))
    assert found["all"].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert found["transposed"].tolist() == [[0, 4, 8], [1, 5, 9], [2, 6, 10], [3, 7, 11]]
    assert found["column"].tolist() == [2, 6, 10] and found["one"].shape == () and found["one"] == 11
    assert found["repeated"].tolist() == [[4, 5], [4, 5]] and found["empty"].shape == (2, 0)
    assert np.shares_memory(found["all"], found["column"]) and not found["all"].flags.writeable


def test_the_old_container_keeps_views_of_a_storage():
    flat = np.arange(6, dtype=np.float32)
    found = arrays(old_archive({"x": Tensor(flat, (2,), (1,), 1, view=(2, 4)), "whole": Tensor(flat, (6,), (1,))}))
    assert found["x"].tolist() == [3, 4] and found["whole"].tolist() == [0, 1, 2, 3, 4, 5]
    with pytest.raises(InputError, match="a view beyond the end of storage '0'"):
        arrays(old_archive({"x": Tensor(flat, (2,), (1,), view=(4, 3))}))


@both
def test_parameters_and_plain_values(container):
    content = {"w": tensor(np.float32([1, 2]), parameter=True), "lr": 0.5, "steps": (3, [True, None, -(2**40)])}
    found = archives.load(io.BytesIO(WRITERS[container](content)))
    assert found["w"].array().tolist() == [1, 2] and (found["lr"], found["steps"]) == (0.5, (3, [True, None, -(2**40)]))


class Payload:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@both
@pytest.mark.parametrize(
    "module, name",
    [
        ("os", "system"),
        ("builtins", "eval"),
        ("torch", "load"),
        ("torch.storage", "_load_from_bytes"),
        ("torch._utils", "_rebuild_qtensor"),
        ("subprocess", "Popen"),
        ("builtins", "getattr"),
        ("functools", "reduce"),
    ],
)
def test_code_is_refused_by_name(container, module, name, tmp_path):
    ran = tmp_path / "ran"
    data = WRITERS[container]({"x": tensor([1.0]), "y": Call(module, name, (f"touch {ran}",))})
    with pytest.raises(InputError, match=f"a pickle with code in it, refused: global {module}.{name}"):
        archives.load(io.BytesIO(data))
    assert not ran.exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_code_in_any_protocol_is_refused(protocol, tmp_path):
    """GLOBAL, STACK_GLOBAL and framing; a bare pickle in a file called .pt is read as far as its first global."""
    ran, file = tmp_path / "ran", tmp_path / "weights.pt"
    file.write_bytes(pickle.dumps(Payload(ran), protocol=protocol))
    with pytest.raises(InputError, match=r"weights\.pt: a pickle with code in it, refused: global (io|_io)\.open"):
        read(file)
    assert not ran.exists()


@pytest.mark.parametrize(
    "program",
    [
        b"(S'true'\nios\nsystem\n.",  # INST
        b"(cos\nsystem\nS'true'\no.",  # OBJ
        b"\x80\x02cos\nsystem\n)\x81.",  # NEWOBJ
        b"\x80\x02\x82\x01.",  # EXT1
        b"\x80\x02ctorch._utils\n_rebuild_parameter\n}X\x04\x00\x00\x00callK\x01sb.",  # BUILD on a known function
    ],
    ids=["inst", "obj", "newobj", "ext", "build"],
)
def test_no_opcode_runs_code(program, tmp_path):
    (tmp_path / "weights.pt").write_bytes(program)
    with pytest.raises(InputError, match="a pickle with code in it, refused"):
        read(tmp_path / "weights.pt")


def test_torchscript_and_compressed_members_are_refused():
    out = io.BytesIO(new_archive({"x": tensor([1.0])}))
    with zipfile.ZipFile(out, "a") as archive:
        archive.writestr("model/code/__torch__.py", "")
    with pytest.raises(InputError, match="a TorchScript program, refused"):
        archives.load(out)
    with pytest.raises(InputError, match="a compressed member 'byteorder', which torch does not write"):
        archives.load(io.BytesIO(new_archive({"x": tensor([1.0])}, compression=zipfile.ZIP_DEFLATED)))


def test_big_endian_is_refused():
    for data in (new_archive({"x": tensor([1.0])}, byteorder="big"), old_archive({"x": tensor([1.0])}, little=False)):
        with pytest.raises(InputError, match="big-endian storages; save it again"):
            archives.load(io.BytesIO(data))


@both
@pytest.mark.parametrize(
    "options, found",
    [
        (dict(shape=(3,), strides=(2,)), r"shape \(3,\), strides \(2,\) and offset 0 in a storage of 4 elements"),
        (dict(shape=(1,), strides=(1,), offset=4), r"offset 4 in a storage of 4"),
        (dict(shape=(1,), strides=(1,), offset=-1), "offset -1"),
        (dict(shape=(2,), strides=(-1,), offset=3), r"strides \(-1,\)"),
        (dict(shape=(2, 2), strides=(1,)), r"shape \(2, 2\), strides \(1,\)"),
        (dict(shape=(True,), strides=(1,)), r"shape \(True,\)"),
        (dict(shape=(2,), strides=(2**62,)), "in a storage of 4 elements"),
    ],
)
def test_windows_that_leave_their_storage(container, options, found):
    with pytest.raises(InputError, match=found):
        arrays(WRITERS[container]({"x": Tensor(np.zeros(4, np.float32), **options)}))


@both
def test_storages_of_another_length(container):
    expected = {"new": "storage '0' has 16 bytes, expected 20", "old": "cut short: storage '0' ends at byte"}
    with pytest.raises(InputError, match=expected[container]):
        arrays(WRITERS[container]({"x": Tensor(np.zeros(4, np.float32), (4,), (1,), claims=5)}))
    flat = np.zeros(4, np.float32)
    with pytest.raises(InputError, match="storage '0' described in two ways"):
        arrays(WRITERS[container]({"x": Tensor(flat, (4,), (1,)), "y": Tensor(flat, (4,), (1,), claims=3)}))


def test_a_flipped_bit_in_a_zip_fails_its_checksum(tmp_path):
    data = bytearray(new_archive({"x": tensor(np.float32([1234.5]))}))
    data[data.index(np.float32(1234.5).tobytes())] ^= 1
    (tmp_path / "x.pt").write_bytes(data)
    with pytest.raises(
        InputError, match=r"x\.pt: a damaged PyTorch archive \(BadZipFile: Bad CRC-32.*download or save"
    ):
        read(tmp_path / "x.pt")


@both
def test_every_truncation_is_one_line(container, tmp_path):
    data = (GOLDEN / f"training_{container}.pt").read_bytes()
    for length in range(2, len(data), 11):
        (tmp_path / "x.pt").write_bytes(data[:length])
        with pytest.raises(InputError, match=r"x\.pt: ") as caught:
            read(tmp_path / "x.pt")
        assert len(str(caught.value).splitlines()) == 1


@both
def test_noise_raises_nothing_else(container, tmp_path):
    """A byte changed anywhere is either found out or harmless: never another error, never a crash."""
    data, rng = (GOLDEN / f"training_{container}.pt").read_bytes(), np.random.default_rng(0)
    caught = 0
    for place in range(0, len(data), 7):
        noisy = bytearray(data)
        noisy[place] = (noisy[place] + rng.integers(1, 256)) % 256
        (tmp_path / "x.pt").write_bytes(noisy)
        try:
            read(tmp_path / "x.pt")
        except InputError:
            caught += 1
    assert caught > 50
