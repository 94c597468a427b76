"""A stand-in for the W&B server, for all tests of this folder."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator

import pytest
import wandb
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
        for part in ("FILE_STREAM", "FILE_TRANSFER", "GRAPHQL"):
            for setting, seconds in HASTE.items():
                patch.setenv(f"WANDB__{part}_{setting}", seconds)
        wandb.teardown()
        yield stand_in
        wandb.teardown()


@pytest.fixture(autouse=True)
def tidiness() -> Iterator[None]:
    """Clear away what the client leaves to the garbage collector, before that warns of it."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def server(service: StandIn) -> Iterator[StandIn]:
    """The server, which knows nothing yet."""
    service.forget()
    yield service
    assert service.unknown == [], "the stand-in was asked what it cannot answer"
