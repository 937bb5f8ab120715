from __future__ import annotations

import builtins
import io
import json
import os
import time

import numpy as np
import pytest
from PIL import Image

import jaxfer
from jaxfer import cache_folder
from jaxfer.commands import main
from jaxfer.data import index
from jaxfer.data.lookup import fingerprint
from jaxfer.data.sources import folder, masks, sounds
from jaxfer.errors import InputError
from jaxfer.registry import SOURCES
from jaxfer.sweeps import cells
from jaxfer.training.preflight import preflight
from tests.experiments import SOUNDS, tiny_config

NAMES = ("a/0.bmp", "a/2.bmp", "a/4.bmp", "b/1.bmp", "b/3.bmp", "b/5.bmp")


def new_process():
    index._INDEXES.clear()
    index._MADE.clear()


@pytest.fixture(autouse=True)
def fresh():
    new_process()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The cache's root, in use."""
    monkeypatch.setenv("JAXFER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def opens(monkeypatch):
    """The names of the files that are opened, in order."""
    names, opened = [], builtins.open

    def counting(file, *args, **kwargs):
        names.append(os.path.basename(os.fspath(file))) if isinstance(file, (str, os.PathLike)) else None
        return opened(file, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", counting)
    monkeypatch.setattr(io, "open", counting)  # pathlib's
    return names


def age(root, seconds=10):
    """Makes all files of a folder so much older, so that they are settled."""
    for file in root.rglob("*.*"):
        os.utime(file, (time.time() - seconds,) * 2)


def draw(file, shade):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((3, 4, 3), shade, np.uint8)).save(file)


@pytest.fixture
def root(tmp_path):
    """Six images of two classes, each of its own shade, settled."""
    for i in range(6):
        draw(tmp_path / "data" / "ab"[i % 2] / f"{i}.bmp", 20 * i)
    age(tmp_path / "data")
    return tmp_path / "data"


def images(opens):
    return sorted(name for name in opens if name.endswith(".bmp"))


def test_a_second_process_opens_nothing_and_finds_the_same(root, cache, opens):
    first = folder.source(path=str(root))
    keys = [first.splits["train"].columns["image"].key(row) for row in range(6)]
    content = first.splits["train"].columns["image"].sha256
    assert set(images(opens)) == {f"{i}.bmp" for i in range(6)}
    opens.clear()
    new_process()
    second = folder.source(path=str(root))
    assert (second.fingerprint, second.classes) == (first.fingerprint, ("a", "b"))
    assert second.splits["train"].columns["image"].names == (
        "a/0.bmp",
        "a/2.bmp",
        "a/4.bmp",
        "b/1.bmp",
        "b/3.bmp",
        "b/5.bmp",
    )
    assert [second.splits["train"].columns["image"].key(row) for row in range(6)] == keys and len(set(keys)) == 6
    assert second.splits["train"].columns["image"].sha256 == content
    assert images(opens) == []


def test_the_fingerprint_is_that_without_an_index(root, cache):
    """Bitwise that of earlier versions: names, sizes and ends, then the share of the test split."""
    parts = []
    for name in NAMES:
        content = (root / name).read_bytes()
        parts += [name.encode(), str(len(content)), content]  # shorter than both ends
    for _ in range(2):
        assert folder.source(path=str(root)).fingerprint == fingerprint([*parts, "test_fraction=0.0"])
        new_process()


@pytest.mark.parametrize("how", ["in place", "another inode"])
def test_a_file_of_the_same_size_with_another_content_is_read_again(root, cache, opens, how):
    before = folder.source(path=str(root))
    new_process()
    file, stat = root / "a" / "2.bmp", os.stat(root / "a" / "2.bmp")
    target = file if how == "in place" else root / "copy"
    time.sleep(0.02)  # longer than the step of the file system's clock
    draw(root / "x.bmp", 77)
    target.write_bytes((root / "x.bmp").read_bytes())
    (root / "x.bmp").unlink()
    os.utime(target, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as rsync does: ctime or the inode tell
    target.replace(file)
    assert (os.stat(file).st_size, os.stat(file).st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    opens.clear()
    after = folder.source(path=str(root))
    assert after.fingerprint != before.fingerprint
    assert images(opens).count("2.bmp") == 3 and images(opens).count("0.bmp") == 1, "the others for the fingerprint"


def test_young_files_are_read_every_time(root, cache, opens):
    draw(root / "a" / "6.bmp", 99)  # now: another change could leave the stamp as it is
    folder.source(path=str(root))
    new_process()
    opens.clear()
    folder.source(path=str(root))
    assert images(opens).count("6.bmp") == 3
    stamps = json.loads(next((cache / "index").iterdir()).read_bytes().partition(b"\n")[2])["stamps"]
    assert tuple(sorted(stamps)) == NAMES


def damage(file, how):
    head, _, body = file.read_bytes().partition(b"\n")
    said = json.loads(head)
    if how == "torn":
        file.write_bytes(head + b"\n" + body[: len(body) // 2])
    elif how == "flipped":
        file.write_bytes(head + b"\n" + body.replace(b'bmp": 1', b'bmp": 6', 1))
    elif how == "noise":
        file.write_bytes(b"\xff\x00 no JSON")
    elif how == "empty":
        file.write_bytes(b"")
    else:
        file.write_bytes(json.dumps({**said, how: "another"}).encode() + b"\n" + body)


@pytest.mark.parametrize("how", ["torn", "flipped", "noise", "empty", "root", "code"])
def test_a_damaged_or_foreign_index_is_made_anew(root, cache, opens, how, capsys):
    before = folder.source(path=str(root))
    (file,) = (cache / "index").iterdir()
    whole = file.read_bytes()
    damage(file, how)
    assert main(["cache"]) == 0, "it is listed all the same"
    assert "1 indexes of data" in capsys.readouterr().out
    new_process()
    opens.clear()
    assert folder.source(path=str(root)).fingerprint == before.fingerprint
    assert set(images(opens)) == {f"{i}.bmp" for i in range(6)}
    assert file.read_bytes() == whole
    assert capsys.readouterr().err == ""


def test_an_unreadable_file_says_the_same_and_the_others_are_known(root, cache, opens):
    bad = root / "b" / "5.bmp"
    bad.write_bytes(b"no image")
    age(root)
    messages = []
    for _ in range(2):
        opens.clear()
        with pytest.raises(InputError) as caught:
            folder.source(path=str(root))
        messages.append(str(caught.value))
        new_process()
    assert messages[0] == messages[1]
    assert messages[0].startswith(f"expected a readable image, found {str(bad)!r} (cannot identify image file")
    assert set(images(opens)) == {"5.bmp"}


def test_preflights_of_one_process_open_the_files_once(root, opens):
    """Three opens each: by Pillow, of the end, for the fingerprint; the cache is off."""
    config = tiny_config("resnet_basic")
    config.data = dict(source="folder", path=str(root), val_per_class=1)
    first = preflight(config)
    assert images(opens) == sorted(3 * [f"{i}.bmp" for i in range(6)])
    config.seed = 1
    second = preflight(config)
    assert len(images(opens)) == 18
    assert second.data.splits["train"].columns["image"] is first.data.splits["train"].columns["image"]
    assert cells.identity_hash(first) != cells.identity_hash(second)


def test_off_keeps_nothing_on_the_disk(root, tmp_path, opens, monkeypatch):
    monkeypatch.setenv("JAXFER_CACHE", "off")
    monkeypatch.setattr(cache_folder, "write", lambda *_: pytest.fail("it writes"))
    folder.source(path=str(root))
    new_process()
    opens.clear()
    folder.source(path=str(root))
    assert len(images(opens)) == 18
    assert (index.listed(), index.clear()) == ([], 0)


def test_a_cache_that_cannot_be_written_costs_a_line(root, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JAXFER_CACHE", str(tmp_path / "file"))
    cache_folder.not_kept.cache_clear()
    for _ in range(2):
        assert folder.source(path=str(root)).classes == ("a", "b")
        new_process()
    line = f"warning: indexes of data are not kept: {tmp_path}/file/index: Not a directory\n"
    assert capsys.readouterr().err == line


def test_files_that_are_gone_are_forgotten_and_others_stay(root, cache):
    folder.source(path=str(root))
    folder.source(path=str(root), suffixes=(".bmp",))
    (root / "a" / "0.bmp").unlink()
    draw(root / "a" / "7.bmp", 7)
    age(root)
    new_process()
    folder.source(path=str(root))
    (kept,) = index.listed()
    assert (kept.root, kept.files) == (str(root), 6)


def test_the_command_lists_and_clears(root, cache, capsys):
    folder.source(path=str(root))
    assert main(["cache"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[1].split()[-4] == "6" and shown[2].startswith("1 indexes of data, ")
    assert main(["cache", "--clear"]) == 0 and main(["cache"]) == 0
    assert capsys.readouterr().out.splitlines()[:3:2] == [
        f"removed 1 indexes of data from {cache}/index",
        f"0 indexes of data, 0 of at most {2**30:,} bytes, in {cache}/index",
    ]


def test_indexes_take_a_limited_room(tmp_path, cache, monkeypatch):
    for i, name in enumerate("xyz"):
        draw(tmp_path / name / "a" / "0.bmp", i)
        draw(tmp_path / name / "b" / "0.bmp", i)
        age(tmp_path / name)
        folder.source(path=str(tmp_path / name))
        for file in (cache / "index").iterdir():
            os.utime(file, (time.time() - 100 + i,) * 2) if i < 2 else None
        monkeypatch.setattr(index, "LIMIT", 2 * index.listed()[0].size + 10)
    assert [kept.root[-1] for kept in index.listed()][-1] == "z" and len(index.listed()) == 2


def test_headers_of_sounds_and_masks_are_known_to_a_second_process(tmp_path, cache, opens):
    for i in range(4):
        draw(tmp_path / "seg" / "images" / "train" / f"{i}.png", i)
        file = tmp_path / "seg" / "masks" / "train" / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((3, 4), i % 3, np.uint8)).save(file)
    age(tmp_path / "seg")
    before = masks.source(path=str(tmp_path / "seg")), sounds.source(path=SOUNDS)
    new_process()
    opens.clear()
    after = masks.source(path=str(tmp_path / "seg")), sounds.source(path=SOUNDS)
    assert [name for name in opens if name.endswith((".png", ".wav"))] == []
    assert [data.fingerprint for data in after] == [data.fingerprint for data in before]
    assert after[0].classes == ("class_0", "class_1", "class_2")
    for field in ("rates", "lengths", "wide"):
        columns = [data[1].splits["train"].columns["audio"] for data in (before, after)]
        np.testing.assert_array_equal(*(getattr(column, field) for column in columns))


def test_show_is_the_same_from_the_index(root, cache, opens):
    config = tiny_config("resnet_basic")
    config.data = dict(source="folder", path=str(root), val_per_class=1)
    before = jaxfer.show(config).text()
    new_process()
    opens.clear()
    assert jaxfer.show(config).text() == before
    assert images(opens) == []


TABLES = {
    "table": ("train.csv", "text,label\nwarm,a\ncold,b\n", "text,label\nwarm,a\ncoat,b\n", {}),
    "csv_rows": ("train.csv", "x,label\n1,a\n2,b\n", "x,label\n1,a\n3,b\n", {"numbers": ("x",)}),
    "conll": ("train.conll", "Ada\tB-PER\n\nran\tO\n", "Ida\tB-PER\n\nran\tO\n", {}),
    "squad": (
        "train.jsonl",
        '{"id": "1", "question": "Who?", "context": "Ada ran.", "answers": [{"text": "Ada", "start": 0}]}\n',
        '{"id": "1", "question": "Who?", "context": "Ada sat.", "answers": [{"text": "Ada", "start": 0}]}\n',
        {},
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_read_once_a_process_until_they_change(name, tmp_path, opens):
    file, content, other, options = TABLES[name]
    (tmp_path / file).write_text(content)
    age(tmp_path)

    def made():
        opens.clear()
        data = SOURCES.make(name, path=str(tmp_path), **options)
        return data, opens.count(file)

    first, read = made()
    assert read and made() == (first, 0)
    (tmp_path / f"more{file[5:]}").write_text("")
    noted, read = made()
    assert len(noted.notes) == len(first.notes) + 1, "another file of the folder is noted at once"
    assert noted.fingerprint == first.fingerprint
    copy = tmp_path / "copy"
    copy.write_text(other)
    os.utime(copy, ns=(0, os.stat(tmp_path / file).st_mtime_ns))
    copy.replace(tmp_path / file)
    changed, read = made()
    assert read and changed.fingerprint != first.fingerprint


def test_options_of_a_table_make_another_dataset(tmp_path):
    (tmp_path / "train.csv").write_text("text,label,other\nwarm,a,x\ncold,b,y\n")
    age(tmp_path)
    sources = [SOURCES.make("table", path=str(tmp_path), label=label) for label in ("label", "other", "label")]
    assert [data.classes for data in sources] == [("a", "b"), ("x", "y"), ("a", "b")]
    assert sources[0] is sources[2]
