"""Asking a server whether it is there, and which run of W&B an arm is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.tracked_runs import DEAD_SERVER
from helpers.wandb_server import StandIn

from raise_mdit.errors import RunError
from raise_mdit.wandb_mirror.service import (
    RUN_FILE,
    RunIdentity,
    connect,
    reach,
    read_identity,
    write_identity,
)

IDENTITY = RunIdentity(id="a1", project="study", entity=None, folder="tracking/wandb/run-a1")


@pytest.mark.parametrize("status", [404, 429, 500, 502])
def test_a_server_that_answers_with_an_error_is_there(server: StandIn, status: int) -> None:
    server.failures["root"] = [status]
    reach(server.url)
    assert server.failures["root"] == []


def test_a_server_whose_certificate_is_in_doubt_is_there(server: StandIn) -> None:
    reach(server.url.replace("http:", "https:"))


def test_a_server_that_hangs_up_is_not_there(server: StandIn) -> None:
    server.is_down = True
    with pytest.raises(RunError, match=rf"{server.url} does not answer"):
        reach(server.url)


def test_a_port_at_which_nothing_listens_is_no_server() -> None:
    with pytest.raises(RunError, match=rf"{DEAD_SERVER} does not answer .*refused"):
        reach(DEAD_SERVER)


@pytest.mark.usefixtures("no_server", "no_key")
def test_a_missing_key_is_told_before_a_missing_server() -> None:
    with pytest.raises(RunError, match=r"no credentials .*WANDB_API_KEY"):
        connect()


def test_which_run_an_arm_is_reads_back(tmp_path: Path) -> None:
    write_identity(tmp_path, IDENTITY)
    assert read_identity(tmp_path) == IDENTITY


def test_an_arm_that_was_not_tracked_is_none(tmp_path: Path) -> None:
    assert read_identity(tmp_path) is None


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"format": "raise-mdit/wandb-run/2"}, "wandb-run/2'; this program reads .*wandb-run/1"),
        ({"colour": "red"}, "damaged .*colour"),
    ],
)
def test_another_format_is_refused(tmp_path: Path, changes: dict[str, str], told: str) -> None:
    write_identity(tmp_path, IDENTITY)
    fields = json.loads((tmp_path / RUN_FILE).read_text())
    (tmp_path / RUN_FILE).write_text(json.dumps({**fields, **changes}))
    with pytest.raises(RunError, match=rf"{RUN_FILE}: .*{told}"):
        read_identity(tmp_path)
