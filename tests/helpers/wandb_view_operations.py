"""GraphQL operations of the stand-in on workspaces and reports."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Mapping

from helpers.wandb_served import ENTITY, TIME, Json, Operation, Served, page_info, project_named


def _upsert_view2(served: Served, variables: Json) -> Json:
    return _upsert_view(served, variables)


def _upsert_view(served: Served, variables: Json) -> Json:
    identifier = variables.get("id") or base64.b64encode(uuid.uuid4().bytes).decode()
    is_new = identifier not in served.views
    view = {**variables, "id": identifier}
    served.views[identifier] = view
    within = {**project_named(view["projectName"]), "entityName": view["entityName"]}
    answer = {key: view.get(key) for key in ("id", "name", "type", "displayName", "spec")}
    answer |= {"description": "", "project": within, "updatedAt": TIME}
    return {"upsertView": {"view": answer, "inserted": is_new}}


def _view(served: Served, variables: Json) -> Json:
    return _views(served, "name", variables["viewName"], variables["viewType"])


def _project_views(served: Served, variables: Json) -> Json:
    return _views(served, "displayName", variables.get("viewName"), "runs")


def _views(served: Served, key: str, value: str | None, kind: str) -> Json:
    found = [
        view
        for view in served.views.values()
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
    return {"project": {"allViews": {"edges": edges, "pageInfo": page_info()}}}


OPERATIONS: Mapping[str, Operation] = {
    "UpsertView2": _upsert_view2,
    "upsertView": _upsert_view,
    "View": _view,
    "ProjectViews": _project_views,
}
