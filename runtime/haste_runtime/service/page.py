"""A page for browsers that shows a service: what it does now, why, and how it came to it. It can only be looked at.

Python's own HTTP server, one page without anything from elsewhere, and two addresses with JSON: /status.json and
/history.json (with ?points=600: thinned to so many samples). On loopback it answers only to requests that were meant
for loopback: a web page that a browser on this computer has open can't have another host's name point here and read
along (DNS rebinding).
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import json
import re
import socket
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any
from urllib.parse import parse_qs, urlsplit

from haste_runtime.errors import InputError
from haste_runtime.service.status import HISTORY_S, Status

SOCKET_S = 10.0  # a client that is silent for so long is dropped
HTML, JSON = "text/html; charset=utf-8", "application/json"


class Page:
    """Serves ``status`` at ``address`` (host, port; 0: any) from `start` to `close`. Raises InputError where it cannot
    be had."""

    def __init__(self, address: tuple[str, int], status: Status) -> None:
        html = resources.files("haste_runtime.service").joinpath("page.html").read_text("utf-8")
        self._server = _server(address, status, html)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.2,), name="haste-page", daemon=True)
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        self.url = f"http://{host}:{self._server.server_address[1]}/"

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


def _server(address: tuple[str, int], status: Status, html: str) -> ThreadingHTTPServer:
    loopback = is_loopback(address[0])
    policy = security_policy(html)
    body = html.encode()

    class Handler(BaseHTTPRequestHandler):
        timeout = SOCKET_S
        server_version, sys_version = "haste-edge", ""

        def do_GET(self) -> None:
            if loopback and not is_loopback(host_of(self.headers.get("Host", ""))):
                self._answer(HTTPStatus.FORBIDDEN, JSON, b'{"error": "asked for another host than this one"}')
                return
            url = urlsplit(self.path)
            path, points = url.path, parse_qs(url.query).get("points", [""])[0]
            if path == "/":
                self._answer(HTTPStatus.OK, HTML, body)
            elif path == "/status.json":
                self._json(status.now())
            elif path == "/history.json":
                self._json(status.history(points=int(points) if points.isdecimal() and len(points) < 6 else HISTORY_S))
            else:
                self._answer(HTTPStatus.NOT_FOUND, JSON, b'{"error": "there are /, /status.json and /history.json"}')

        do_HEAD = do_GET

        def _json(self, value: Any) -> None:
            self._answer(HTTPStatus.OK, JSON, json.dumps(value, allow_nan=False).encode())

        def _answer(self, code: HTTPStatus, kind: str, data: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("Content-Security-Policy", policy)
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def log_message(self, format: str, *arguments: Any) -> None:
            """Nothing: a browser asks every other second."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that has gone is no error of ours."""

    try:
        return Server(address, Handler)
    except OSError as error:
        where = f"{address[0]}:{address[1]}"
        raise InputError(f"The status page cannot be at {where}: {error}.", "Choose another --page.") from None


def security_policy(html: str) -> str:
    """Nothing may be loaded, and only the page's own style and script run: named by their digests."""
    allowed = {}
    for tag in ("style", "script"):
        texts = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts]
        allowed[tag] = " ".join(f"'sha256-{digest}'" for digest in digests)
    rest = "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    return f"default-src 'none'; style-src {allowed['style']}; script-src {allowed['script']}; {rest}"


def host_of(header: str) -> str:
    """The host of a Host header, without its port."""
    return header[1:].partition("]")[0] if header.startswith("[") else header.partition(":")[0]


def is_loopback(host: str) -> bool:
    """Whether a name or an address can only mean this computer."""
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
