"""Data sets of the Hugging Face Hub: what is asked of it, what is read then, and what it refuses, in one line."""

from __future__ import annotations

import huggingface_hub
import pytest
from huggingface_hub import constants, errors

from jaxfer.data.lookup import locate
from jaxfer.data.prepare import DataConfig, build
from jaxfer.errors import InputError
from tests.pretrained.test_hub import hub_error

COMMIT = "0123456789abcdef"
ROWS = "text\tlabel\n" + "".join(
    f"{word}\t{label}\n" for word, label in (("good", "a"), ("bad", "b")) for _ in range(9)
)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A stand-in for the Hub with one data set, and what was asked of it."""
    asked, folder = [], tmp_path / COMMIT

    def download(name, *, revision, allow_patterns, cache_dir, repo_type):
        asked.append((name, revision, repo_type, allow_patterns))
        for place in (folder, folder / "sst2"):
            place.mkdir(parents=True, exist_ok=True)
            (place / "train.tsv").write_text(ROWS)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return asked


def test_it_is_read_as_a_folder_here(hub, tmp_path):
    config = DataConfig(source="table", val_fraction=0.2)
    data = build(config, {"path": "hub:nyu-mll/glue@v1/sst2"}, seed=0, with_test=False)
    assert (len(data.splits["train"]), data.classes) == (14, ("a", "b"))
    assert hub == [("nyu-mll/glue", "v1", "dataset", ["sst2/*"])]
    assert locate("hub:nyu-mll/glue", "table") == tmp_path / COMMIT
    assert hub[1][:3] == ("nyu-mll/glue", None, "dataset") and "*.parquet" in hub[1][3] and "*" not in hub[1][3]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("hub:glue", r"data.path: expected hub:ORGANISATION/NAME\[@REVISION\]\[/FOLDER\], found 'hub:glue'"),
        ("hub:nyu-mll/glue/sts2", "data.path: nyu-mll/glue has no folder 'sts2'; it has sst2"),
    ],
)
def test_names_that_are_none(hub, path, message):
    with pytest.raises(InputError, match=message):
        locate(path, "table")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (errors.RepositoryNotFoundError, "a/b: the data set is not on the Hub; check the name, or run `hf auth login`"),
        (errors.GatedRepoError, "a/b: the data set is gated on the Hub; accept its terms there"),
        (errors.RevisionNotFoundError, "a/b: on the Hub, but not at revision 'v2'; give a branch, tag or commit"),
        (
            errors.HfHubHTTPError,
            "a/b: the Hub can't be reached at revision 'v2' .*`hf download a/b --repo-type dataset`",
        ),
    ],
)
def test_what_the_hub_refuses(kind, message, tmp_path, monkeypatch):
    def refuse(*args, **options):
        raise hub_error(kind, 404)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=message) as caught:
        locate("hub:a/b@v2", "table")
    assert len(str(caught.value).splitlines()) == 1
