"""A folder of runs of every kind, a server of it, and requests as no browser would make them."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import threading
from unittest import mock

from jaxfer.ui import listed
from jaxfer.ui.server import HOST, Server
from jaxfer.ui.site import Site
from tests.reports import comparisons, pages
from tests.runs.folders import result, write

EVIL = "<script>alert('x')<"
# (name, group, what is in its folder) of the cells of a sweep; "" is one that waits.
CELLS = (("lr=1", "a", "done"), ("lr=2", "a", "going"), ("lr=3", "b", "lost"), ("lr=4", "b", ""))


def fill(folder):
    """`good`, `going`, `torn`, a sweep, a comparison, a ranking beside a diagnosis, and a folder that is no run."""
    write(folder / "good", ended=result(accuracy=0.875, loss=0.5))
    write(folder / "going")
    write(folder / EVIL, changes={"lr": 0.5})
    (write(folder / "torn") / "config.json").write_text('{"stages": [')
    comparisons.write(folder / "compared", arm=EVIL)
    sweep(folder / "sweep")
    (folder / "found").mkdir()
    pages.ranking(folder / "found" / "rank.json", inits=(EVIL, "b"))
    pages.diagnosis(folder / "found" / "doctor.json")
    (folder / "notes").mkdir()
    (folder / "notes" / "secret.txt").write_text("secret")
    return folder


def sweep(folder):
    folder.mkdir(parents=True)
    index = [
        {"name": name, "group": group, "folder": f"cells/00{i}", "overrides": {}, "status": "waiting"}
        for i, (name, group, _) in enumerate(CELLS)
    ]
    (folder / "cells.json").write_text(json.dumps(index))
    write(folder / "cells" / "000", ended=result(accuracy=0.875, loss=0.5))
    write(folder / "cells" / "001")
    write(folder / "cells" / "002", error_txt=f"Traceback\nValueError: {EVIL}")
    return folder


def tree(folder):
    """{path: (size, time of change)} of everything in a folder, the folder included."""
    paths = [os.path.join(place, name) for place, inner, names in os.walk(folder) for name in (*inner, *names)]
    stats = {path: os.lstat(path) for path in (str(folder), *paths)}
    return {path: (stat.st_size, stat.st_mtime_ns) for path, stat in stats.items()}


@contextlib.contextmanager
def serving(folder):
    """The port of a server of that folder, which it reads anew for each request."""
    with mock.patch.object(listed, "SHARED", 0.0), contextlib.closing(Site(folder)) as site, Server(site, 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def ask(port, target, method="GET", *, body=None, **headers):
    """(status, headers, text) of a request whose target is sent as it is."""
    connection = http.client.HTTPConnection(HOST, port, timeout=60)
    with contextlib.closing(connection):
        connection.putrequest(method, target, skip_host="Host" in headers)
        for name, value in headers.items():
            if value:
                connection.putheader(name.replace("_", "-"), value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read().decode()
