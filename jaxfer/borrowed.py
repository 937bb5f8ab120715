"""Every use or patch of a private JAX or orbax module. No other file imports `_src`.

Read from jax 0.10.2 and 0.12.0.1, and orbax-checkpoint 0.12.8. After an upgrade, `tests/test_borrowed.py` says which
name has gone; each function says what public name would replace it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any


def launcher() -> Any | None:
    """JAX's own detection of the cluster this process runs in (`name`, `get_process_count()`), or None.

    `jax.distributed.initialize` asks the same classes; JAX has no public name for them.
    """
    from jax._src import clusters

    kinds = (kind for kind in clusters.ClusterEnv._cluster_types if not kind.opt_in_only_method)
    return next((kind for kind in kinds if kind.is_env_present()), None)


def coordination_client() -> Any:
    """The client of JAX's coordination service, None in a single process; JAX has no public name for it."""
    from jax._src import distributed

    return distributed.global_state.client


def set_program_store(store: Callable[[str], Any]) -> None:
    """Replaces the file storage of JAX's compilation cache by `store(path)`, which has `get` and `put`.

    JAX writes its own files in place, so an entry that a kill tears stays torn for good.
    """
    from jax._src import compilation_cache

    compilation_cache.get_file_cache = lambda path: (store(path), path)


def reset_program_cache() -> None:
    """Makes JAX reread its cache settings."""
    from jax._src import compilation_cache

    compilation_cache.reset_cache()


def teach_orbax_s3() -> None:
    """Teaches orbax to write arrays to `s3://` paths, as it does to `gs://`.

    Patches its two private checks: whether a path is in an object store, and what tensorstore calls it.
    """
    from orbax.checkpoint._src.path import gcs_utils
    from orbax.checkpoint._src.serialization import tensorstore_utils

    if "s3://" in gcs_utils._GCS_PATH_PREFIX:
        return
    gs_store, normalized = gcs_utils.get_kvstore_for_gcs, tensorstore_utils._normalize_path

    def store(path: str) -> dict[str, str]:
        scheme, _, place = path.partition("://")
        bucket, _, key = place.partition("/")
        if scheme != "s3":
            return gs_store(path)
        return {"driver": "s3", "bucket": bucket, "path": key, **_s3_server()}

    gcs_utils._GCS_PATH_PREFIX += ("s3://",)
    gcs_utils.get_kvstore_for_gcs = store
    tensorstore_utils._use_gcs_driver = lambda path: path.startswith(("gs://", "s3://"))
    tensorstore_utils._normalize_path = lambda path: (
        f"s3://{os.path.normpath(path[5:])}" if path.startswith("s3://") else normalized(path)
    )


def _s3_server() -> dict[str, str]:
    """The non-Amazon S3 server that AWS environment variables name; tensorstore does not read them."""
    variables = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"), ("AWS_REGION", "AWS_DEFAULT_REGION")
    endpoint, region = (next(filter(None, map(os.environ.get, names)), "") for names in variables)
    return {"endpoint": endpoint, "aws_region": region or "us-east-1"} if endpoint else {}
