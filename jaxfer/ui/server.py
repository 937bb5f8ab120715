"""HTTP on loopback: GET and HEAD, for browsers that were given this address and no other."""

from __future__ import annotations

import http.server
import socketserver
import sys
from http import HTTPStatus
from typing import Any

from jaxfer import __version__
from jaxfer.errors import InputError
from jaxfer.reports.page import POLICY
from jaxfer.ui.site import Answer, Site, said

HOST = "127.0.0.1"
NAMES = frozenset({HOST, "localhost"})
HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": f"{POLICY}; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Server(http.server.ThreadingHTTPServer):
    """A server of one site; a thread for each request.

    Attributes:
      site: what it shows.
    """

    request_queue_size = 128  # connections that wait to be accepted
    daemon_threads = True
    block_on_close = False

    def __init__(self, site: Site, port: int):
        self.site = site
        try:
            super().__init__((HOST, port), Handler)
        except OSError as error:
            reason = error.strerror or error
            fix = "name another port, or 0 for any that is free"
            raise InputError(f"--port={port}: {HOST} can't be listened on there ({reason}); {fix}") from None

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # HTTPServer's looks its own name up, which may take seconds
        self.server_name, self.server_port = self.server_address[:2]

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exception()
        if not isinstance(error, (ConnectionError, TimeoutError)):  # a reader who went away is no error
            print(f"warning: a request failed: {type(error).__name__}: {error}", file=sys.stderr)


class Handler(http.server.BaseHTTPRequestHandler):
    """One request."""

    server: Server
    server_version, sys_version = f"jaxfer/{__version__}", ""
    timeout = 30  # seconds that a reader may be silent

    def do_GET(self) -> None:
        self._send(self._refused() or self.server.site.answer(self.path))

    do_HEAD = do_GET

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        if code == HTTPStatus.NOT_IMPLEMENTED:  # another method
            code, message = HTTPStatus.METHOD_NOT_ALLOWED, "These pages are read: GET or HEAD"
            self._drop_body()
        self._send(said(code, HTTPStatus(code).phrase, message or ""))

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""

    def _refused(self) -> Answer | None:
        """An answer to a request that another site's page makes, or a name that was made to lead here."""
        hosts = [host.strip().lower() for host in self.headers.get_all("Host", [])]
        if len(hosts) != 1 or NAMES.isdisjoint({hosts[0], hosts[0].rpartition(":")[0]}):
            return said(403, "Not this address", f"These pages are at http://{HOST}:{self.server.server_port}/")
        embedded = self.headers.get("Sec-Fetch-Dest", "document") != "document"
        if embedded and self.headers.get("Sec-Fetch-Site") == "cross-site":
            return said(403, "Not from another site", "These pages are not part of others")
        if not self.path.startswith("/"):
            return said(400, "No address", "Expected a path that begins with /")
        return None

    def _drop_body(self) -> None:
        """Reads what would be written, so that closing does not take the answer back."""
        length = self.headers.get("Content-Length", "") if hasattr(self, "headers") else ""
        if length.isascii() and length.isdigit():
            self.rfile.read(min(int(length), 1 << 16))

    def _send(self, answer: Answer) -> None:
        data = answer.html.encode(errors="backslashreplace")
        self.send_response(answer.status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        if answer.status == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        if answer.location:
            self.send_header("Location", answer.location)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
