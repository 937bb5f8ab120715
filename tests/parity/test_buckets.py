"""Work directories in buckets: `gs://` and `s3://` on servers that speak the stores' own protocols, on this machine."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from etils import epath

import jaxfer
from jaxfer import files
from jaxfer.sweeps.executors import make as executor
from tests import kill
from tests.experiments import tiny_config
from tests.sweeps import example

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", params=["gs", "s3"])
def bucket(request, tmp_path_factory):
    """A bucket, which this process and those it starts can reach."""
    kind = request.param
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url, log = f"http://127.0.0.1:{port}", tmp_path_factory.mktemp(kind) / "log"
    environment = {  # nobody to ask for credentials
        "gs": {"NO_GCE_CHECK": "true", "STORAGE_EMULATOR_HOST": url, "TENSORSTORE_GCS_HTTP_URL": url},
        "s3": {"AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
        | {"AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"},
    }[kind]
    with log.open("w") as file, pytest.MonkeyPatch.context() as patch:
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.parity.servers", kind, str(port)], stdout=file, stderr=file, cwd=ROOT
        )
        for name, value in {**environment, "JAXFER_CACHE": str(log.with_name("cache"))}.items():
            patch.setenv(name, value)
        try:
            wait(lambda: answers(url), 60)
            make(kind, url)
            yield files.opened(f"{kind}://bucket")
        finally:
            server.kill()
            server.wait()


def wait(event, seconds):
    until = time.monotonic() + seconds
    while not event():
        assert time.monotonic() < until
        time.sleep(0.05)


def answers(url):
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def make(kind, url):
    """An empty bucket named `bucket`."""
    if kind == "s3":  # the other has one
        urllib.request.urlopen(urllib.request.Request(f"{url}/bucket", b"", method="PUT"), timeout=30).close()


def start(folder, log):
    command = [sys.executable, "-m", "jaxfer", "run", kill.__file__, f"--workdir={folder}", "--config.save_every=8"]
    with log.open("w") as file:
        return subprocess.Popen(command, stdout=file, stderr=file)


def parts(folder):
    """How many objects of metrics there are: one a save."""
    return len(list((folder / "metrics").glob("*"))) if (folder / "metrics").exists() else 0


@pytest.mark.parametrize("bucket", ["gs", pytest.param("s3", marks=pytest.mark.rest)], indirect=True)
def test_a_run_in_a_bucket_is_killed_and_ends_as_on_a_disk(bucket, tmp_path):
    """kill -9 after some saves, SIGTERM in the next sitting: all lines, numbers and weights are a disk's."""
    log = tmp_path / "log"
    assert start(tmp_path / "disk", log).wait(300) == 0, log.read_text()[-2000:]
    folder, codes = bucket / "runs" / "killed", []
    for number, said in ((signal.SIGKILL, "compiled programs"), (signal.SIGTERM, "resumed at step")):
        run = start(folder, log)
        wait(lambda said=said: said in log.read_text(), 120)
        wait(lambda: parts(folder) > 2, 120)
        run.send_signal(number)
        codes.append(run.wait(60))
    assert codes == [-signal.SIGKILL, 75], log.read_text()[-2000:]
    run = start(folder, log)
    assert run.wait(300) == 0 and "resumed at step" in log.read_text(), log.read_text()[-2000:]
    assert not kill.ending(epath.Path(tmp_path / "disk")).differences(kill.ending(folder))


@pytest.mark.parametrize("bucket", ["gs", pytest.param("s3", marks=pytest.mark.rest)], indirect=True)
def test_a_model_of_texts_in_a_bucket(bucket):
    """Its tokenizer lies there too: it is resumed, evaluated and begun from, as on a disk."""
    folder = bucket / "runs" / "texts"
    first = jaxfer.run(tiny_config("bert_pooler", steps=2), folder, quiet=True)
    longer = jaxfer.run(tiny_config("bert_pooler", steps=4), folder, quiet=True)
    assert (first["steps"], longer["steps"]) == (2, 4)
    assert jaxfer.evaluate(folder) == longer["metrics"]["val"]
    config = tiny_config("bert_pooler", steps=1, init=f"run:{folder}")
    assert jaxfer.run(config, bucket / "runs" / "next", quiet=True)["lineage"]["source_sha256"]


@pytest.mark.rest
@pytest.mark.parametrize("bucket", ["gs"], indirect=True)
@pytest.mark.parametrize(("kind", "options"), [("processes", {"processes": 2}), ("ray", {})])
def test_a_sweep_in_a_bucket_has_the_table_of_one_on_a_disk(bucket, kind, options, tmp_path):
    """Sources are written by one worker, and read by another."""
    spec, folder, _ = example.swept(tmp_path)
    jaxfer.sweep(spec, bucket / kind, executor=executor(kind, **options), quiet=True)
    example.check_same(bucket / kind, folder)
