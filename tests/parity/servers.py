"""Servers that speak the protocols of object stores, in memory: `python -m tests.parity.servers gs|s3 PORT`."""

from __future__ import annotations

import sys


def gs(port: int) -> None:
    """Google Cloud Storage, of the package gcp-storage-emulator; with the generation that tensorstore asks for."""
    from gcp_storage_emulator.exceptions import NotFound
    from gcp_storage_emulator.handlers import objects

    plain = objects.download

    def download(request, response, storage, *args, **options):
        plain(request, response, storage, *args, **options)
        try:
            found = storage.get_file_obj(request.params["bucket_name"], request.params["object_id"])
        except NotFound:
            return
        response["x-goog-generation"] = found["generation"]

    objects.download = download  # before the server makes its routes
    from gcp_storage_emulator.server import create_server

    create_server("127.0.0.1", port, in_memory=True, default_bucket="bucket").run()


def s3(port: int) -> None:
    """Amazon S3, of the package moto."""
    from moto.server import main

    main(["-H", "127.0.0.1", "-p", str(port)])


if __name__ == "__main__":
    {"gs": gs, "s3": s3}[sys.argv[1]](int(sys.argv[2]))
