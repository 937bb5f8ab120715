"""A stand-in for an object store: `s3://` paths of epath in a folder here, where nothing can be appended to."""

from __future__ import annotations

from pathlib import Path

import fsspec
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

_root = Path()


class _Store(DirFileSystem):
    protocol = "s3"

    def __init__(self, **_):
        super().__init__(path="/", fs=LocalFileSystem(auto_mkdir=True))

    def _join(self, path):  # epath keeps one file system for ever, and each test has its folder
        self.path = str(_root)
        return super()._join(path.removeprefix("s3://") if isinstance(path, str) else path)

    def open(self, path, mode="rb", **options):
        if "a" in mode:
            raise NotImplementedError("an object can't be appended to")
        return super().open(path, mode, **options)


def register(root: Path) -> None:
    """Lets `s3://` mean `root` in this process."""
    global _root
    _root = root
    fsspec.register_implementation("s3", _Store, clobber=True)
