"""Columns of files in class folders: what their keys see of a file."""

from __future__ import annotations

from jaxfer.data.sources.classfolders import END, Files


def test_a_key_sees_both_ends_and_the_size_and_exact_sees_all(tmp_path):
    whole = bytes(range(256)) * (3 * END // 256)
    middle = whole[: len(whole) // 2] + b"?" + whole[len(whole) // 2 + 1 :]
    contents = {"a": whole, "same": whole, "middle": middle, "end": whole[:-1] + b"?", "longer": whole + b"?"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    files = Files(tmp_path, tuple(contents))
    assert [files.key(row) == files.key(0) for row in range(len(files))] == [True, True, True, False, False]
    assert [files.exact(row) == files.exact(0) for row in range(len(files))] == [True, True, False, False, False]
    alike, other = Files(tmp_path, ("same", "end")), Files(tmp_path, ("middle", "end"))
    assert Files(tmp_path, ("a", "end")).sha256 == alike.sha256 != other.sha256
