"""A stand-in for the W&B server, and runs that were tracked once, for all tests of this folder."""

from __future__ import annotations

import gc
import shutil
import warnings
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import pytest
import wandb
from helpers.tracked_runs import DEAD_SERVER, POLICIES, TrackedOnline, track
from helpers.wandb_served import Served
from helpers.wandb_server import StandIn, serving

HASTE = {
    "RETRY_MAX": "5",
    "RETRY_WAIT_MIN_SECONDS": "0.05",
    "RETRY_WAIT_MAX_SECONDS": "0.2",
    "TIMEOUT_SECONDS": "5",
}
"""How often the client tries again, and how long it waits."""


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    """A server, and a home with a key for it; the client's process starts once for all tests."""
    home = tmp_path_factory.mktemp("home")
    with serving() as stand_in, pytest.MonkeyPatch.context() as patch:
        for name in ("DIR", "ENTITY", "MODE", "PROJECT"):
            patch.delenv(f"WANDB_{name}", raising=False)
        patch.setenv("HOME", str(home))
        patch.setenv("NETRC", str(home / "netrc"))
        for name in ("CONFIG", "CACHE", "DATA", "ARTIFACT"):
            patch.setenv(f"WANDB_{name}_DIR", str(home / name))
        patch.setenv("WANDB_API_KEY", "a" * 40)
        patch.setenv("WANDB_BASE_URL", stand_in.url)
        patch.setenv("WANDB_SILENT", "true")
        patch.setenv("WANDB__SAVE_REQUIREMENTS", "false")  # it reads all of the environment anew
        for part in ("FILE_STREAM", "FILE_TRANSFER", "GRAPHQL"):
            for setting, seconds in HASTE.items():
                patch.setenv(f"WANDB__{part}_{setting}", seconds)
        wandb.teardown()
        yield stand_in
        wandb.teardown()


@pytest.fixture(scope="session")
def few_objects() -> Iterator[None]:
    """A garbage collector that passes by all that is there before, torch and the like."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def tidiness(few_objects: None) -> Iterator[None]:
    """Clear away what the client leaves to the garbage collector, before that warns of it."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(scope="session")
def online(service: StandIn, tmp_path_factory: pytest.TempPathFactory) -> TrackedOnline:
    """A whole run, tracked online."""
    directory = tmp_path_factory.mktemp("runs") / "20260101-000000"
    service.begin(Served())
    track(directory, "online", *POLICIES)
    assert service.unknown == []
    return TrackedOnline(directory, deepcopy(service.served))


@pytest.fixture(scope="session")
def tracked_offline(service: StandIn, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run, tracked offline and then moved."""
    folder = tmp_path_factory.mktemp("runs")
    track(folder / "before", "offline", *POLICIES)
    return Path(shutil.move(folder / "before", folder / "moved"))


@pytest.fixture
def offline(tracked_offline: Path, tmp_path: Path) -> Path:
    """A copy of a whole run that was tracked offline."""
    return shutil.copytree(tracked_offline, tmp_path / "run")


@pytest.fixture
def fresh_client(service: StandIn) -> Iterator[None]:
    """A client that reads its environment, which `service` has made, again for this test alone."""
    wandb.teardown()
    yield
    wandb.teardown()


@pytest.fixture
def no_server(fresh_client: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address at which nothing answers."""
    monkeypatch.setenv("WANDB_BASE_URL", DEAD_SERVER)


@pytest.fixture
def no_key(fresh_client: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who has not logged in."""
    monkeypatch.delenv("WANDB_API_KEY")


@pytest.fixture
def server(service: StandIn) -> Iterator[StandIn]:
    """The server, which knows nothing yet."""
    service.begin(Served())
    yield service
    assert service.unknown == [], "the stand-in was asked what it cannot answer"
