"""GraphQL operations of the stand-in on artifacts, and what they were made from."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping

from helpers.wandb_served import TIME, Json, Operation, Served, ServedArtifact, project_named


def _artifact_type(served: Served, variables: Json) -> Json:
    name = variables["name"].partition(":")[0]
    kinds = [artifact.type for artifact in served.artifacts if artifact.name == name]
    found = {"artifactType": {"name": kinds[0]}} if kinds else None
    return {"project": {"artifact": found}}


def _create_artifact(served: Served, variables: Json) -> Json:
    given = variables["input"]
    name, digest = given["artifactCollectionName"], given["digest"]
    aliases = [entry["alias"] for entry in given.get("aliases") or []]
    known = [each for each in served.artifacts if each.name == name]
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
        served.artifacts.append(artifact)
    created = {
        "id": artifact.id,
        "state": artifact.state,
        "artifactSequence": {"id": name, "latestArtifact": None},
    }
    return {"createArtifact": {"artifact": created}}


def _create_artifact_manifest(served: Served, variables: Json) -> Json:
    return {"createArtifactManifest": {"artifactManifest": _manifest(served, variables)}}


def _update_artifact_manifest(served: Served, variables: Json) -> Json:
    return {"updateArtifactManifest": {"artifactManifest": _manifest(served, variables)}}


def _manifest(served: Served, variables: Json) -> Json:
    owner, name = variables.get("artifactID", "manifest"), "wandb_manifest.json"
    url = f"{served.url}/upload/manifest-{owner}/{name}"
    sent = {"id": name, "name": name, "displayName": name, "uploadUrl": url}
    return {"id": uuid.uuid4().hex, "file": {**sent, "uploadHeaders": []}}


def _create_artifact_files(served: Served, variables: Json) -> Json:
    files = (variables.get("input") or variables)["artifactFiles"]
    edges = [
        {
            "node": {
                "id": uuid.uuid4().hex,
                "name": given["name"],
                "displayName": given["name"],
                "uploadUrl": f"{served.url}/upload/{given['artifactID']}/{given['name']}",
                "uploadHeaders": [],
                "uploadMultipartUrls": None,
                "storagePath": given["name"],
                "artifact": {"id": given["artifactID"]},
            }
        }
        for given in files
    ]
    return {"createArtifactFiles": {"files": {"edges": edges}}}


def _commit_artifact(served: Served, variables: Json) -> Json:
    artifact = _artifact(served, variables["artifactID"])
    artifact.state = "COMMITTED"
    return {"commitArtifact": {"artifact": {"id": artifact.id, "digest": artifact.digest}}}


def _use_artifact(served: Served, variables: Json) -> Json:
    artifact = _artifact(served, variables["artifactID"])
    served.uses.append((variables["runName"], f"{artifact.name}:v{artifact.version}"))
    return {"useArtifact": {"artifact": {"id": artifact.id}}}


def _artifact_by_id(served: Served, variables: Json) -> Json:
    return {"artifact": _described(_artifact(served, variables["id"]))}


def _artifact_membership_by_name(served: Served, variables: Json) -> Json:
    name, _, alias = variables["name"].partition(":")
    for artifact in reversed(served.artifacts):
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


def _artifact(served: Served, identifier: str) -> ServedArtifact:
    (found,) = (each for each in served.artifacts if each.id == identifier)
    return found


def _described(artifact: ServedArtifact) -> Json:
    collection = {
        "__typename": "ArtifactSequence",
        "name": artifact.name,
        "project": project_named("study"),
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


OPERATIONS: Mapping[str, Operation] = {
    "ArtifactType": _artifact_type,
    "CreateArtifact": _create_artifact,
    "CreateArtifactManifest": _create_artifact_manifest,
    "UpdateArtifactManifest": _update_artifact_manifest,
    "CreateArtifactFiles": _create_artifact_files,
    "CommitArtifact": _commit_artifact,
    "UseArtifact": _use_artifact,
    "ArtifactByID": _artifact_by_id,
    "ArtifactMembershipByName": _artifact_membership_by_name,
}
