"""HTTP: who is answered, how, and how many at once."""

from __future__ import annotations

import concurrent.futures
import contextlib
import socket

import pytest

from jaxfer.errors import InputError
from jaxfer.reports.page import POLICY
from jaxfer.ui.server import Server
from jaxfer.ui.site import Site
from tests.ui.serving import ask, fill, serving, tree


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("ui") / "runs")


@pytest.fixture(scope="module")
def port(folder):
    with serving(folder) as port:
        yield port


def test_a_page_and_its_head(port):
    status, headers, text = ask(port, "/")
    assert status == 200 and text.startswith("<!doctype html>") and "<script" not in text
    assert headers["Content-Security-Policy"] == f"{POLICY}; frame-ancestors 'none'"
    assert "default-src 'none'" in POLICY and headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert headers["X-Content-Type-Options"] == "nosniff" and headers["Cache-Control"] == "no-store"
    status, headers, nothing = ask(port, "/", "HEAD")
    assert (status, int(headers["Content-Length"]), nothing) == (200, len(text.encode()), "")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "get", "X"])
def test_other_methods(port, folder, method):
    before = tree(folder)
    status, headers, text = ask(port, "/report/compared", method, body=b"x" * 5000)
    assert status == 405 and headers["Allow"] == "GET, HEAD" and "GET or HEAD" in text
    assert tree(folder) == before


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:{}", 200),
        ("localhost:{}", 200),
        ("localhost:9", 200),  # forwarded by ssh
        ("localhost", 200),
        ("LOCALHOST:{}", 200),
        ("evil.example:{}", 403),
        ("evil.example", 403),
        ("127.0.0.1.evil.example:{}", 403),
        ("evil.example:127.0.0.1", 403),
        ("0.0.0.0:{}", 403),
        ("", 403),
    ],
)
def test_only_by_its_own_name(port, host, status):
    assert ask(port, "/", Host=host.format(port))[0] == status


def test_not_from_another_sites_page(port):
    assert ask(port, "/", Sec_Fetch_Site="cross-site", Sec_Fetch_Dest="image")[0] == 403
    assert ask(port, "/", Sec_Fetch_Site="cross-site", Sec_Fetch_Dest="iframe")[0] == 403
    assert ask(port, "/", Sec_Fetch_Site="cross-site", Sec_Fetch_Dest="document")[0] == 200  # a link
    assert ask(port, "/", Sec_Fetch_Site="none", Sec_Fetch_Dest="document")[0] == 200


NO_REQUESTS = {b"GET\r\n\r\n": b"400", b"GET / HTTP/9.9\r\n\r\n": b"505", b"\0\r\n\r\n": b"400", b"": b""}


def test_what_is_no_request(port):
    for sent, told in NO_REQUESTS.items():
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            assert told in connection.makefile("rb").read()
    assert ask(port, "/" + "x" * 70_000)[0] == 414
    assert ask(port, f"http://127.0.0.1:{port}/")[0] == 400


def test_fifty_at_once(port, folder):
    before = tree(folder)
    targets = ["/", "/report/compared", "/live/sweep", "/live/going", "/report/../../etc/passwd"] * 30
    with concurrent.futures.ThreadPoolExecutor(50) as clients:
        answers = list(clients.map(lambda target: (target, *ask(port, target)[::2]), targets))
    found = {target: {(status, text) for asked, status, text in answers if asked == target} for target in targets}
    assert [[status for status, _ in found[target]] for target in targets[:5]] == [[200], [200], [200], [200], [404]]
    assert tree(folder) == before


def test_a_silent_client_holds_nobody_up(port):
    with socket.create_connection(("127.0.0.1", port), timeout=30) as silent:
        silent.sendall(b"GET / HT")
        assert ask(port, "/")[0] == 200


def test_a_port_in_use(port, tmp_path):
    said = rf"--port={port}: 127.0.0.1 can't be listened on there \(Address already in use\); name another port, or 0"
    with contextlib.closing(Site(tmp_path)) as site:
        with pytest.raises(InputError, match=said):
            Server(site, port)
        with Server(site, 0) as server:
            assert server.server_address[0] == "127.0.0.1" and server.server_port != port
