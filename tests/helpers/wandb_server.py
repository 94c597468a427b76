"""A loopback stand-in for the server of Weights & Biases, for its unmodified client.

It answers what client 0.31 and wandb-workspaces 0.4 ask for (GraphQL, streams of rows, uploads of
files), keeps all that it was sent, and fails on demand. It was written from the requests of those
clients; the real service was never seen.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
import socket
import threading
import uuid
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ENTITY = "lab"
"""Whose key it is."""
TIME = "2026-01-01T00:00:00Z"

Json = dict[str, Any]


@dataclass
class ServedRun:
    """What a run has sent."""

    fields: Json = field(default_factory=dict)
    """As the client named them: `displayName`, `groupName`, `jobType`, `tags`, `sweep`."""
    rows: list[Json] = field(default_factory=list)
    summary: Json = field(default_factory=dict)
    exit_code: int | None = None

    @property
    def config(self) -> Json:
        """Without the client's own part."""
        entries = json.loads(self.fields.get("config") or "{}")
        return {key: entry["value"] for key, entry in entries.items() if key != "_wandb"}

    @property
    def axes(self) -> dict[str, str]:
        """Step metric by metric."""
        entries = json.loads(self.fields["config"])["_wandb"]["value"]["m"]
        names = {str(number + 1): entry for number, entry in enumerate(entries)}
        return {
            entry.get("1") or entry["2"]: names[str(entry["5"])]["1"]
            for entry in entries
            if "5" in entry
        }


@dataclass
class ServedArtifact:
    """One version of an artifact."""

    id: str
    name: str
    type: str
    version: int
    digest: str
    run: str
    aliases: list[str]
    metadata: Json
    state: str = "PENDING"
    files: dict[str, bytes] = field(default_factory=dict)


class StandIn:
    """What the server knows, and how it fails."""

    def __init__(self) -> None:
        self.url = ""
        self._lock = threading.RLock()
        self.forget()

    def forget(self) -> None:
        """Begin again with nothing."""
        self.runs: dict[str, ServedRun] = defaultdict(ServedRun)
        self.artifacts: list[ServedArtifact] = []
        self.uses: list[tuple[str, str]] = []
        """Run and artifact that it uses, as `name:vN`."""
        self.views: dict[str, Json] = {}
        """Workspaces and reports by id."""
        self.sweeps: list[Json] = []
        self.unknown: list[str] = []
        """Requests that had no answer."""
        self.failures: dict[str, list[int]] = defaultdict(list)
        """Status codes of the next answers, by `graphql`, `file_stream` and `upload`."""
        self.is_down = False

    def named(self, name: str) -> ServedRun:
        """The one run of a display name."""
        (found,) = (run for run in self.runs.values() if run.fields.get("displayName") == name)
        return found

    def committed(self, kind: str) -> list[ServedArtifact]:
        """Whole artifacts of a type."""
        return [each for each in self.artifacts if (each.type, each.state) == (kind, "COMMITTED")]

    def graphql(self, name: str, variables: Json) -> Json:
        """The data of an operation."""
        with self._lock:
            operation = getattr(self, f"_on_{name}", None)
            if operation is None:
                self.unknown.append(name)
                return {}
            answer: Json = operation(variables)
            return answer

    def file_stream(self, run: str, body: Json) -> Json:
        """Take in rows, a summary and the end of a run."""
        with self._lock:
            served = self.runs[run]
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
            for artifact in self.artifacts:
                if artifact.id == owner:
                    artifact.files[name] = content

    # Who and where.

    def _on_Viewer(self, _: Json) -> Json:
        return {
            "viewer": {
                "id": "user",
                "entity": ENTITY,
                "username": ENTITY,
                "name": ENTITY,
                "email": "",
                "flags": "{}",
                "admin": False,
                "teams": {"edges": []},
            }
        }

    def _on_GetDefaultEntity(self, _: Json) -> Json:
        return {"viewer": {"id": "user", "entity": ENTITY}}

    def _on_ServerFeaturesQuery(self, _: Json) -> Json:
        return {"serverInfo": {"features": []}}

    def _on_OrganizationCoreWeaveOrganizationID(self, _: Json) -> Json:
        return {"entity": {"organization": None}}

    def _on_ProjectInternalId(self, variables: Json) -> Json:
        return {"project": _project(variables["projectName"])}

    def _on_GetProject(self, variables: Json) -> Json:
        return {"project": _project(variables["name"])}

    def _on_GetProjects(self, _: Json) -> Json:
        names = sorted({run.fields["project"] for run in self.runs.values()})
        edges = [{"node": _project(name)} for name in names]
        return {"models": {"edges": edges, "pageInfo": _page_info()}}

    # Runs.

    def _on_UpsertBucket(self, variables: Json) -> Json:
        name = variables.get("name") or str(variables["id"])
        is_new = name not in self.runs
        run = self.runs[name]
        run.fields.update({key: value for key, value in variables.items() if value is not None})
        run.fields.setdefault("entity", ENTITY)
        bucket = {
            "id": name,
            "name": name,
            "displayName": run.fields.get("displayName", name),
            "description": "",
            "config": run.fields.get("config") or "{}",
            "sweepName": run.fields.get("sweep"),
            "project": _project(run.fields["project"]),
            "historyLineCount": len(run.rows),
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": is_new}}

    def _on_RunResumeStatus(self, variables: Json) -> Json:
        name = variables["name"]
        bucket = None
        if name in self.runs:
            run = self.runs[name]
            bucket = {
                "id": name,
                "name": name,
                "summaryMetrics": json.dumps(run.summary),
                "displayName": run.fields.get("displayName"),
                "logLineCount": 0,
                "historyLineCount": len(run.rows),
                "eventsLineCount": 0,
                "historyTail": json.dumps([json.dumps(row) for row in run.rows[-1:]]),
                "eventsTail": "[]",
                "config": run.fields.get("config") or "{}",
                "tags": run.fields.get("tags") or [],
                "notes": None,
                "wandbConfig": json.dumps({"t": 1}),
            }
        return {"model": {**_project(variables["project"]), "bucket": bucket}}

    def _on_Run(self, variables: Json) -> Json:
        name = variables["name"]
        if name not in self.runs:
            return {"project": {"internalId": "1", "run": None}}
        run = self.runs[name]
        found = {
            "id": name,
            "name": name,
            "projectId": "1",
            "tags": run.fields.get("tags") or [],
            "displayName": run.fields.get("displayName"),
            "sweepName": run.fields.get("sweep"),
            "state": "running" if run.exit_code is None else "finished",
            "config": run.fields.get("config") or "{}",
            "group": run.fields.get("groupName"),
            "jobType": run.fields.get("jobType"),
            "commit": None,
            "readOnly": False,
            "createdAt": TIME,
            "heartbeatAt": TIME,
            "description": "",
            "notes": None,
            "systemMetrics": "{}",
            "summaryMetrics": json.dumps(run.summary),
            "historyLineCount": len(run.rows),
            "user": {"name": ENTITY, "username": ENTITY},
            "historyKeys": self._history_keys(run),
        }
        return {"project": {"internalId": "1", "run": found}}

    def _on_RunHistoryKeys(self, variables: Json) -> Json:
        keys = self._history_keys(self.runs[variables["name"]])
        return {"project": {"run": {"historyKeys": keys}}}

    def _history_keys(self, run: ServedRun) -> Json:
        return {"lastStep": max((row["_step"] for row in run.rows), default=-1), "keys": {}}

    def _on_RunParquetHistory(self, _: Json) -> Json:
        return {"project": {"run": {"parquetHistory": {"parquetUrls": [], "liveData": []}}}}

    def _on_HistoryPage(self, variables: Json) -> Json:
        low, high = int(variables["minStep"]), int(variables["maxStep"])
        rows = [row for row in self.runs[variables["run"]].rows if low <= row["_step"] < high]
        return {"project": {"run": {"history": [json.dumps(row) for row in rows]}}}

    def _on_CreateRunFiles(self, variables: Json) -> Json:
        run = variables["run"]
        files = [
            {"name": name, "uploadUrl": f"{self.url}/upload/{run}/{name}"}
            for name in variables["files"]
        ]
        return {"createRunFiles": {"runID": run, "uploadHeaders": [], "files": files}}

    def _on_UpsertSweep(self, variables: Json) -> Json:
        self.sweeps.append(variables)
        sweep = {"name": f"sweep{len(self.sweeps)}", "project": _project(variables["projectName"])}
        return {"upsertSweep": {"sweep": sweep, "configValidationWarnings": []}}

    # Artifacts.

    def _on_ArtifactType(self, variables: Json) -> Json:
        name = variables["name"].partition(":")[0]
        kinds = [artifact.type for artifact in self.artifacts if artifact.name == name]
        found = {"artifactType": {"name": kinds[0]}} if kinds else None
        return {"project": {"artifact": found}}

    def _on_CreateArtifact(self, variables: Json) -> Json:
        given = variables["input"]
        name, digest = given["artifactCollectionName"], given["digest"]
        aliases = [entry["alias"] for entry in given.get("aliases") or []]
        known = [each for each in self.artifacts if each.name == name]
        same = [each for each in known if each.digest == digest and each.state == "COMMITTED"]
        if same:
            artifact = same[0]
            artifact.aliases += [alias for alias in aliases if alias not in artifact.aliases]
        else:
            artifact = ServedArtifact(
                id=uuid.uuid4().hex,
                name=name,
                type=given["artifactTypeName"],
                version=len(known),
                digest=digest,
                run=given["runName"],
                aliases=aliases,
                metadata=json.loads(given.get("metadata") or "{}"),
            )
            self.artifacts.append(artifact)
        created = {
            "id": artifact.id,
            "state": artifact.state,
            "artifactSequence": {"id": name, "latestArtifact": None},
        }
        return {"createArtifact": {"artifact": created}}

    def _on_CreateArtifactManifest(self, variables: Json) -> Json:
        return {"createArtifactManifest": {"artifactManifest": self._manifest(variables)}}

    def _on_UpdateArtifactManifest(self, variables: Json) -> Json:
        return {"updateArtifactManifest": {"artifactManifest": self._manifest(variables)}}

    def _manifest(self, variables: Json) -> Json:
        owner, name = variables.get("artifactID", "manifest"), "wandb_manifest.json"
        url = f"{self.url}/upload/manifest-{owner}/{name}"
        sent = {"id": name, "name": name, "displayName": name, "uploadUrl": url}
        return {"id": uuid.uuid4().hex, "file": {**sent, "uploadHeaders": []}}

    def _on_CreateArtifactFiles(self, variables: Json) -> Json:
        files = (variables.get("input") or variables)["artifactFiles"]
        edges = [
            {
                "node": {
                    "id": uuid.uuid4().hex,
                    "name": given["name"],
                    "displayName": given["name"],
                    "uploadUrl": f"{self.url}/upload/{given['artifactID']}/{given['name']}",
                    "uploadHeaders": [],
                    "uploadMultipartUrls": None,
                    "storagePath": given["name"],
                    "artifact": {"id": given["artifactID"]},
                }
            }
            for given in files
        ]
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def _on_CommitArtifact(self, variables: Json) -> Json:
        artifact = self._artifact(variables["artifactID"])
        artifact.state = "COMMITTED"
        return {"commitArtifact": {"artifact": {"id": artifact.id, "digest": artifact.digest}}}

    def _on_UseArtifact(self, variables: Json) -> Json:
        artifact = self._artifact(variables["artifactID"])
        self.uses.append((variables["runName"], f"{artifact.name}:v{artifact.version}"))
        return {"useArtifact": {"artifact": {"id": artifact.id}}}

    def _on_ArtifactByID(self, variables: Json) -> Json:
        return {"artifact": _described(self._artifact(variables["id"]))}

    def _on_ArtifactMembershipByName(self, variables: Json) -> Json:
        name, _, alias = variables["name"].partition(":")
        for artifact in reversed(self.artifacts):
            if artifact.name == name and alias in (*artifact.aliases, f"v{artifact.version}"):
                described = _described(artifact)
                membership = {
                    "__typename": "ArtifactCollectionMembership",
                    "id": artifact.id,
                    "versionIndex": artifact.version,
                    "createdAt": TIME,
                    "aliases": described["aliases"],
                    "artifactCollection": described["artifactSequence"],
                    "artifact": described,
                }
                return {"project": {"artifactCollectionMembership": membership}}
        return {"project": {"artifactCollectionMembership": None}}

    def _artifact(self, identifier: str) -> ServedArtifact:
        (found,) = (each for each in self.artifacts if each.id == identifier)
        return found

    # Workspaces and reports.

    def _on_UpsertView2(self, variables: Json) -> Json:
        return self._on_upsertView(variables)

    def _on_upsertView(self, variables: Json) -> Json:
        identifier = variables.get("id") or base64.b64encode(uuid.uuid4().bytes).decode()
        is_new = identifier not in self.views
        view = {**variables, "id": identifier}
        self.views[identifier] = view
        project = {**_project(view["projectName"]), "entityName": view["entityName"]}
        answer = {key: view.get(key) for key in ("id", "name", "type", "displayName", "spec")}
        answer |= {"description": "", "project": project, "updatedAt": TIME}
        return {"upsertView": {"view": answer, "inserted": is_new}}

    def _on_View(self, variables: Json) -> Json:
        return self._views("name", variables["viewName"], variables["viewType"])

    def _on_ProjectViews(self, variables: Json) -> Json:
        return self._views("displayName", variables.get("viewName"), "runs")

    def _views(self, key: str, value: str | None, kind: str) -> Json:
        found = [
            view
            for view in self.views.values()
            if view["type"] == kind and value in (None, view[key])
        ]
        edges = [
            {
                "node": {
                    "id": view["id"],
                    "name": view["name"],
                    "displayName": view["displayName"],
                    "description": "",
                    "user": {"username": ENTITY, "photoUrl": None, "email": ""},
                    "spec": view["spec"],
                    "updatedAt": TIME,
                    "createdAt": TIME,
                },
                "cursor": view["id"],
            }
            for view in found
        ]
        return {"project": {"allViews": {"edges": edges, "pageInfo": _page_info()}}}


def _project(name: str) -> Json:
    return {
        "__typename": "Project",
        "id": f"project-{name}",
        "internalId": "1",
        "name": name,
        "entityName": ENTITY,
        "entity": {"id": ENTITY, "name": ENTITY},
        "createdAt": TIME,
        "isBenchmark": False,
        "user": None,
    }


def _page_info() -> Json:
    return {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}


def _described(artifact: ServedArtifact) -> Json:
    collection = {
        "__typename": "ArtifactSequence",
        "name": artifact.name,
        "project": _project("study"),
    }
    aliases = [
        {
            "__typename": "ArtifactAlias",
            "id": alias,
            "alias": alias,
            "artifactCollection": collection,
        }
        for alias in artifact.aliases
    ]
    return {
        "__typename": "Artifact",
        "id": artifact.id,
        "artifactSequence": collection,
        "versionIndex": artifact.version,
        "artifactType": {"name": artifact.type},
        "description": None,
        "metadata": json.dumps(artifact.metadata),
        "ttlDurationSeconds": -2,
        "ttlIsInherited": True,
        "tags": [],
        "historyStep": None,
        "state": artifact.state,
        "size": sum(map(len, artifact.files.values())),
        "digest": artifact.digest,
        "commitHash": "",
        "fileCount": len(artifact.files),
        "createdAt": TIME,
        "updatedAt": None,
        "aliases": aliases,
    }


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients of tests hang up in the middle."""


@contextmanager
def serving() -> Iterator[StandIn]:
    """A server on a free port of this machine."""
    stand_in = StandIn()
    server = _Server(("127.0.0.1", 0), _handler(stand_in))
    stand_in.url = f"http://127.0.0.1:{server.server_port}"
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
    if part != "telemetry":
        stand_in.unknown.append(f"{method} {path}")
    return 404, {"error": "unknown"}


def _part(path: str) -> str:
    if path.endswith("/graphql"):
        return "graphql"
    if path.endswith("/file_stream"):
        return "file_stream"
    if path.startswith("/upload/"):
        return "upload"
    return "telemetry" if "/otel/" in path else path
