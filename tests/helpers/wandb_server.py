"""A loopback stand-in for the server of Weights & Biases, for its unmodified client.

It answers what client 0.31 and wandb-workspaces 0.4 ask for (GraphQL, streams of rows, uploads of
files), keeps all that it was sent, and fails on demand. It was written from the requests of those
clients; the real service was never seen.
"""

from __future__ import annotations

import gzip
import json
import re
import socket
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from helpers import wandb_artifact_operations, wandb_run_operations, wandb_view_operations
from helpers.wandb_served import Json, Operation, Served

OPERATIONS: Mapping[str, Operation] = {
    **wandb_run_operations.OPERATIONS,
    **wandb_artifact_operations.OPERATIONS,
    **wandb_view_operations.OPERATIONS,
}


class StandIn:
    """What the server has been sent, and how it fails."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._lock = threading.RLock()
        self.begin(Served())

    def begin(self, served: Served) -> None:
        """Begin again with what was sent before, which stays as it is; nothing fails."""
        self.served = deepcopy(served)
        self.served.url = self.url
        self.unknown: list[str] = []
        """Requests that had no answer."""
        self.failures: dict[str, list[int]] = defaultdict(list)
        """Status codes of the next answers, by `root`, `graphql`, `file_stream` and `upload`."""
        self.is_down = False

    def graphql(self, name: str, variables: Json) -> Json:
        """The data of an operation."""
        with self._lock:
            if name not in OPERATIONS:
                self.unknown.append(name)
                return {}
            return OPERATIONS[name](self.served, variables)

    def file_stream(self, run: str, body: Json) -> Json:
        """Take in rows, a summary and the end of a run."""
        with self._lock:
            served = self.served.runs[run]
            for name, part in (body.get("files") or {}).items():
                lines = part.get("content", [])
                if name == "wandb-history.jsonl":
                    del served.rows[part.get("offset", 0) :]
                    served.rows += map(json.loads, lines)
                elif name == "wandb-summary.json" and lines:
                    served.summary = json.loads(lines[-1])
            if body.get("complete"):
                served.exit_code = body.get("exitcode")
        return {"exitcode": None, "limits": {}}

    def upload(self, owner: str, name: str, content: bytes) -> None:
        """Take in a file of an artifact; those of runs are let go."""
        with self._lock:
            for artifact in self.served.artifacts:
                if artifact.id == owner:
                    artifact.files[name] = content


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients of tests hang up in the middle."""


@contextmanager
def serving() -> Iterator[StandIn]:
    """A server on a free port of this machine."""
    server = _Server(("127.0.0.1", 0), BaseHTTPRequestHandler)
    stand_in = StandIn(f"http://127.0.0.1:{server.server_port}")
    server.RequestHandlerClass = _handler(stand_in)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield stand_in
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _handler(stand_in: StandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

        def _respond(self) -> None:
            if stand_in.is_down:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            status, answer = _answer(stand_in, self.command, self.path, body)
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = _respond

    return Handler


def _answer(
    stand_in: StandIn, method: str, path: str, body: bytes
) -> tuple[int, Mapping[str, Any]]:
    part = _part(path)
    if stand_in.failures[part]:
        return stand_in.failures[part].pop(0), {"error": "injected"}
    if part == "graphql":
        request = json.loads(body)
        found = re.search(r"(?:query|mutation)\s+(\w+)", request["query"])
        name = request.get("operationName") or (found[1] if found else "")
        try:
            return 200, {"data": stand_in.graphql(name, request.get("variables") or {})}
        except (KeyError, TypeError, ValueError) as fault:
            stand_in.unknown.append(f"{name}: {fault!r} in {request.get('variables')}")
            return 200, {"errors": [{"message": f"{name}: {fault!r}"}]}
    if part == "file_stream":
        return 200, stand_in.file_stream(path.split("/")[-2], json.loads(body))
    if part == "upload":
        _, _, owner, name = path.split("/", 3)
        stand_in.upload(owner, name, body)
        return 200, {}
    if part == "root":
        return 200, {}
    if part != "telemetry":
        stand_in.unknown.append(f"{method} {path}")
    return 404, {"error": "unknown"}


def _part(path: str) -> str:
    if path.endswith("/graphql"):
        return "graphql"
    if path.endswith("/file_stream"):
        return "file_stream"
    if path == "/":
        return "root"
    if path.startswith("/upload/"):
        return "upload"
    return "telemetry" if "/otel/" in path else path
