"""Finding a checkpoint: which files of a folder count, what wins, and a Hub that is not there."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import constants, errors
from safetensors.numpy import save_file

from jaxfer import files
from jaxfer.data.lookup import locate
from jaxfer.errors import InputError
from jaxfer.exports.hf import export
from jaxfer.exports.predict import predict
from jaxfer.pretrained import foreign, starting
from jaxfer.pretrained.formats.reading import read
from jaxfer.pretrained.hub import find
from jaxfer.runs.folder import epath
from jaxfer.training.evaluation import evaluate
from tests.pretrained.torch_archives import new_archive, tensor

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def fill(folder: Path, *names: str) -> Path:
    """A folder with these files; each weights file holds one tensor `w`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        if name.endswith(".index.json"):
            (folder / name).write_text(json.dumps({"weight_map": {"w": "model-00001-of-00001.safetensors"}}))
        elif name.endswith(".json"):
            (folder / name).write_text(json.dumps({"file": name}))
        elif name.endswith(".safetensors"):
            save_file({"w": np.float32([1])}, folder / name)
        else:
            (folder / name).write_bytes(new_archive({"w": tensor(np.float32([1]))}))
    return folder


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty Hub cache and no network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


def test_a_hugging_face_folder(tmp_path):
    names = ("config.json", "preprocessor_config.json", "processor_config.json", "vocab.txt", "tokenizer.json")
    folder = fill(tmp_path / "model", *names, "model.safetensors", "optimizer.pt")
    found = find(str(folder))
    assert found.config == {"file": "config.json"} and found.preprocessor == {"file": "preprocessor_config.json"}
    assert [file.name for file in found.tokenizer] == ["tokenizer.json", "vocab.txt"]
    assert found.weights == folder / "model.safetensors" and found.commit is None and found.init == str(folder)
    assert found.sha256 == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert read(found.weights)["w"].tolist() == [1]


@pytest.mark.parametrize(
    "names, chosen",
    [
        (("pytorch_model.bin", "model.safetensors", "x.pt"), "model.safetensors"),
        (("pytorch_model.bin", "model.safetensors.index.json"), "model.safetensors.index.json"),
        (("pytorch_model.bin", "x.pth", "training_args.bin"), "pytorch_model.bin"),
        (("x.safetensors", "x.pth"), "x.safetensors"),
        (("x.pth", "optimizer.pt", "scheduler.pt", "rng_state_0.pth", "training_args.bin"), "x.pth"),
    ],
)
def test_weights_by_preference(names, chosen, tmp_path):
    folder = fill(tmp_path / "model", "model-00001-of-00001.safetensors", *names)
    found = find(str(folder))
    assert found.weights.name == chosen and found.config is None and found.tokenizer == ()
    assert read(found.weights)["w"].tolist() == [1]


def test_an_image_processor_inside_a_processor(tmp_path):
    folder = fill(tmp_path / "model", "model.safetensors")
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": {"size": 8}, "processor_class": "X"}))
    assert find(str(folder)).preprocessor == {"size": 8}


def test_one_file(tmp_path, monkeypatch):
    folder = fill(tmp_path / "model", "config.json", "model.safetensors", "resnet.pth")
    assert find(str(folder / "model.safetensors")).config == {"file": "config.json"}
    assert find(str(folder / "resnet.pth")).config is None  # the config beside it may be another's
    monkeypatch.chdir(folder)
    assert find("resnet.pth").weights.name == "resnet.pth"
    fill(folder, "model-00001-of-00001.safetensors")
    with pytest.raises(InputError, match=r"one shard of several; give its folder or its \.index\.json"):
        find("model-00001-of-00001.safetensors")
    with pytest.raises(InputError, match=r"config\.json: expected weights, found a JSON file; give its folder"):
        find("config.json")


def test_folders_without_one_set_of_weights(tmp_path):
    with pytest.raises(InputError, match=r"2 weights files \(a\.pt, b\.pth\); give one of them"):
        find(str(fill(tmp_path / "two", "a.pt", "b.pth")))
    with pytest.raises(
        InputError, match=r"no weights that jaxfer reads; expected model\.safetensors, .*found config\.json"
    ):
        find(str(fill(tmp_path / "none", "config.json")))
    with pytest.raises(
        InputError, match=r"a run of jaxfer and no checkpoint; start from it by config.init=run:/.*/run"
    ):
        fill(tmp_path / "run", "ledger.json").joinpath("config.json").write_text('{"stages": []}')
        find(str(tmp_path / "run"))
    with pytest.raises(InputError, match="names no base model; set base_model_name_or_path"):
        find(str(fill(tmp_path / "peft", "adapter_config.json", "adapter_model.safetensors")))
    with pytest.raises(InputError, match="found nothing"):
        find(str(fill(tmp_path / "empty")))


def test_a_damaged_config(tmp_path):
    folder = fill(tmp_path / "model", "model.safetensors")
    (folder / "config.json").write_text('{"model_type": ')
    with pytest.raises(InputError, match=r"config\.json: not readable as JSON"):
        find(str(folder))
    (folder / "config.json").write_text("[1]")
    with pytest.raises(InputError, match=r"config\.json: expected a JSON object, found a list"):
        find(str(folder))


def test_an_existing_path_wins_over_the_hub(tmp_path, monkeypatch):
    fill(tmp_path / "google" / "vit", "model.safetensors")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: pytest.fail("asked the Hub"))
    assert find("google/vit").weights.name == find("./google/vit").weights.name == "model.safetensors"
    with pytest.raises(
        InputError, match="revision='v1' is for the Hub, but google/vit is a local path; remove the revision"
    ):
        find("google/vit", revision="v1")


def test_a_path_that_is_not_there(tmp_path, monkeypatch):
    fill(tmp_path / "models", "resnet20.pth")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: pytest.fail("asked the Hub"))
    with pytest.raises(
        InputError, match=r"models/resnet\.pth: no such folder or file; nearest: 'models/resnet20\.pth'"
    ):
        find("models/resnet.pth")
    with pytest.raises(InputError, match=r"\./modells: no such folder or file; nearest: 'models'"):
        find("./modells")
    with pytest.raises(InputError, match="there is no folder a/b/c either"):
        find("a/b/c/d")
    with pytest.raises(InputError, match="expected a folder, a file or a Hub name, found an address; download it"):
        find("https://example.org/model.pth")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("https://example.org/x", "found an address|expected a folder, gs:// or s3://"),
        ("file:///x", "found an address|expected a folder, gs:// or s3://"),
        ("gs://bucket/x", r"gs://bucket/x needs the package gcsfs; pip install 'jaxfer\[gs\]'"),
        ("s3://bucket/x", r"s3://bucket/x needs the package s3fs; pip install 'jaxfer\[s3\]'"),
    ],
)
def test_addresses_are_one_line_wherever_one_is_named(address, message, tmp_path, monkeypatch):
    """Of checkpoints, runs, exports and data; stores need a package, which is absent."""
    monkeypatch.setattr(epath, "Path", absent(epath.Path))
    uses = {
        "checkpoint": lambda: foreign.opened(address, "auto", {}),
        "run to evaluate": lambda: evaluate(address, split="test"),
        "model to predict with": lambda: predict(address, ["a.png"]),
        "run to export": lambda: export(address),
        "source": lambda: starting.source_folder(f"run:{address}", tmp_path),
        "work directory": lambda: files.opened(address),
    }
    for use, call in uses.items():
        with pytest.raises(InputError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value), use
    with pytest.raises(InputError, match=r"data.path='.*': expected a path on this machine, found a URL"):
        locate(address, "npz")


def absent(path):
    """epath where the packages of the stores are not installed."""

    def without(name="", *more):
        if str(name).startswith(("gs://", "s3://")):
            raise ImportError("no such package")
        return path(name, *more)

    return without


@pytest.mark.parametrize("folder", [None, 5, b"x", "", "x/" * 2000, "x" * 5000, "a\0b"])
def test_what_is_no_path(folder):
    with pytest.raises(InputError, match="expected the path of a folder|not a valid path on this machine") as caught:
        files.opened(folder)
    assert len(str(caught.value)) < 200


def test_offline_the_cache_serves_what_it_has(cache):
    folder = cache / "models--google--vit"
    fill(folder / "snapshots" / COMMIT, "config.json", "pytorch_model.bin")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    found = find("google/vit")
    assert found.commit == COMMIT and found.weights.name == "pytorch_model.bin" and found.init == "google/vit"
    assert find("google/vit", revision=COMMIT).sha256 == found.sha256
    with pytest.raises(InputError, match="google/vit: .*can't be reached at revision 'v2'"):
        find("google/vit", revision="v2")


def test_offline_without_it_names_the_cache_and_the_fix(cache):
    with pytest.raises(InputError) as caught:
        find("google/vit")
    message = str(caught.value)
    assert message.startswith("google/vit: no such folder or file here, and the Hub can't be reached")
    assert str(cache) in message and "hf download google/vit" in message and "give its folder" in message
    assert len(message.splitlines()) == 1


def hub_error(kind: type, status: int) -> Exception:
    class Response:
        headers, request, status_code, text = {}, None, status, ""

    error = kind.__new__(kind)
    Exception.__init__(error, f"{status} Client Error.\n\nmore lines")
    error.response = Response()
    return error


@pytest.mark.parametrize(
    "kind, message",
    [
        (errors.RepositoryNotFoundError, "google/vit: no such folder or file here, and not on the Hub; check the name"),
        (errors.GatedRepoError, "and gated on the Hub; accept its terms there and run `hf auth login`"),
        (errors.RevisionNotFoundError, "on the Hub, but not at revision 'v2'; give a branch, tag or commit"),
        (errors.HfHubHTTPError, "the Hub can't be reached at revision 'v2' \\(404 Client Error\\), nor is it complete"),
    ],
)
def test_what_the_hub_refuses(kind, message, cache, monkeypatch):
    def refuse(*args, **options):
        raise hub_error(kind, 404)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(InputError, match=message) as caught:
        find("google/vit", revision="v2")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("has", ["model.safetensors", "pytorch_model.bin"])
def test_pickles_are_fetched_only_where_there_is_nothing_better(has, cache, monkeypatch, tmp_path):
    asked, folder = [], fill(tmp_path / COMMIT, "config.json")

    def download(name, *, revision, allow_patterns, cache_dir):
        asked.append(allow_patterns)
        assert (name, revision, cache_dir) == ("google/vit", "v1", str(cache))
        if has in allow_patterns:
            fill(folder, has)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    found = find("google/vit", revision="v1")
    assert found.weights.name == has and found.commit == COMMIT
    assert len(asked) == (1 if has == "model.safetensors" else 2)
    assert "config.json" in asked[0] and not any("pytorch" in pattern for pattern in asked[0])
