"""What is borrowed from private modules still exists, and no other file borrows."""

from __future__ import annotations

import re
from pathlib import Path

import jaxfer
from jaxfer import borrowed


def test_no_other_file_imports_private_modules():
    root = Path(jaxfer.__file__).parent
    private = re.compile(r"^\s*(from|import) (jax|jaxlib|orbax|flax|optax|grain)\.([\w.]+\.)?_", re.MULTILINE)
    borrowers = [file.name for file in root.rglob("*.py") if private.search(file.read_text())]
    assert borrowers == ["borrowed.py"]


def test_every_borrowed_name_exists(monkeypatch):
    from jax._src import compilation_cache
    from orbax.checkpoint._src.path import gcs_utils
    from orbax.checkpoint._src.serialization import tensorstore_utils

    assert borrowed.launcher() is None  # a name that is gone raises
    assert borrowed.coordination_client() is None
    assert callable(compilation_cache.get_file_cache) and callable(compilation_cache.reset_cache)
    names = ("_normalize_path", "_use_gcs_driver")
    assert all(callable(getattr(tensorstore_utils, name)) for name in names)
    assert isinstance(gcs_utils._GCS_PATH_PREFIX, tuple) and callable(gcs_utils.get_kvstore_for_gcs)


def test_orbax_names_an_s3_path_for_tensorstore(monkeypatch):
    from orbax.checkpoint._src.path import gcs_utils
    from orbax.checkpoint._src.serialization import tensorstore_utils

    for module, name in (
        (gcs_utils, "_GCS_PATH_PREFIX"),
        (gcs_utils, "get_kvstore_for_gcs"),
        (tensorstore_utils, "_use_gcs_driver"),
        (tensorstore_utils, "_normalize_path"),
    ):
        monkeypatch.setattr(module, name, getattr(module, name))  # restored afterwards
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://localhost:5000")
    monkeypatch.delenv("AWS_REGION", raising=False)
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    borrowed.teach_orbax_s3()
    assert gcs_utils.get_kvstore_for_gcs("s3://bucket/a/b") == {
        "driver": "s3",
        "bucket": "bucket",
        "path": "a/b",
        "endpoint": "http://localhost:5000",
        "aws_region": "us-east-1",
    }
    assert tensorstore_utils._normalize_path("s3://bucket/a/../b") == "s3://bucket/b"
