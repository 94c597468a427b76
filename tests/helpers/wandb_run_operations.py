"""GraphQL operations of the stand-in on whose key it is, projects, runs and sweeps."""

from __future__ import annotations

import json
from collections.abc import Mapping

from helpers.wandb_served import (
    ENTITY,
    TIME,
    Json,
    Operation,
    Served,
    ServedRun,
    page_info,
    project_named,
)

# Who and where.


def _viewer(served: Served, _: Json) -> Json:
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


def _get_default_entity(served: Served, _: Json) -> Json:
    return {"viewer": {"id": "user", "entity": ENTITY}}


def _server_features_query(served: Served, _: Json) -> Json:
    return {"serverInfo": {"features": []}}


def _organization_core_weave_organization_id(served: Served, _: Json) -> Json:
    return {"entity": {"organization": None}}


def _project_internal_id(served: Served, variables: Json) -> Json:
    return {"project": project_named(variables["projectName"])}


def _get_project(served: Served, variables: Json) -> Json:
    return {"project": project_named(variables["name"])}


def _get_projects(served: Served, _: Json) -> Json:
    names = sorted({run.fields["project"] for run in served.runs.values()})
    edges = [{"node": project_named(name)} for name in names]
    return {"models": {"edges": edges, "pageInfo": page_info()}}


# Runs.


def _upsert_bucket(served: Served, variables: Json) -> Json:
    name = variables.get("name") or str(variables["id"])
    is_new = name not in served.runs
    run = served.runs[name]
    run.fields.update({key: value for key, value in variables.items() if value is not None})
    run.fields.setdefault("entity", ENTITY)
    bucket = {
        "id": name,
        "name": name,
        "displayName": run.fields.get("displayName", name),
        "description": "",
        "config": run.fields.get("config") or "{}",
        "sweepName": run.fields.get("sweep"),
        "project": project_named(run.fields["project"]),
        "historyLineCount": len(run.rows),
    }
    return {"upsertBucket": {"bucket": bucket, "inserted": is_new}}


def _run_resume_status(served: Served, variables: Json) -> Json:
    name = variables["name"]
    bucket = None
    if name in served.runs:
        run = served.runs[name]
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
    return {"model": {**project_named(variables["project"]), "bucket": bucket}}


def _run(served: Served, variables: Json) -> Json:
    name = variables["name"]
    if name not in served.runs:
        return {"project": {"internalId": "1", "run": None}}
    run = served.runs[name]
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
        "historyKeys": _history_keys(run),
    }
    return {"project": {"internalId": "1", "run": found}}


def _run_history_keys(served: Served, variables: Json) -> Json:
    keys = _history_keys(served.runs[variables["name"]])
    return {"project": {"run": {"historyKeys": keys}}}


def _history_keys(run: ServedRun) -> Json:
    return {"lastStep": max((row["_step"] for row in run.rows), default=-1), "keys": {}}


def _run_parquet_history(served: Served, _: Json) -> Json:
    return {"project": {"run": {"parquetHistory": {"parquetUrls": [], "liveData": []}}}}


def _history_page(served: Served, variables: Json) -> Json:
    low, high = int(variables["minStep"]), int(variables["maxStep"])
    rows = [row for row in served.runs[variables["run"]].rows if low <= row["_step"] < high]
    return {"project": {"run": {"history": [json.dumps(row) for row in rows]}}}


def _create_run_files(served: Served, variables: Json) -> Json:
    run = variables["run"]
    files = [
        {"name": name, "uploadUrl": f"{served.url}/upload/{run}/{name}"}
        for name in variables["files"]
    ]
    return {"createRunFiles": {"runID": run, "uploadHeaders": [], "files": files}}


def _upsert_sweep(served: Served, variables: Json) -> Json:
    served.sweeps.append(variables)
    sweep = {
        "name": f"sweep{len(served.sweeps)}",
        "project": project_named(variables["projectName"]),
    }
    return {"upsertSweep": {"sweep": sweep, "configValidationWarnings": []}}


OPERATIONS: Mapping[str, Operation] = {
    "Viewer": _viewer,
    "GetDefaultEntity": _get_default_entity,
    "ServerFeaturesQuery": _server_features_query,
    "OrganizationCoreWeaveOrganizationID": _organization_core_weave_organization_id,
    "ProjectInternalId": _project_internal_id,
    "GetProject": _get_project,
    "GetProjects": _get_projects,
    "UpsertBucket": _upsert_bucket,
    "RunResumeStatus": _run_resume_status,
    "Run": _run,
    "RunHistoryKeys": _run_history_keys,
    "RunParquetHistory": _run_parquet_history,
    "HistoryPage": _history_page,
    "CreateRunFiles": _create_run_files,
    "UpsertSweep": _upsert_sweep,
}
