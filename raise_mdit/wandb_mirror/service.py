"""Sessions and runs of the W&B client, and which of its faults are the service's.

Faults of the service (no key, no server, an error of it, a time limit) are told apart from ours:
only those in :data:`SERVICE_FAULTS` may be turned into a warning.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import wandb

# The client raises these through its public calls, and exports none.
from wandb.sdk.lib.service.service_connection import WandbApiFailedError
from wandb.sdk.mailbox.mailbox_handle import HandleAbandonedError, ServerResponseError

from raise_mdit.config import WandbConfig
from raise_mdit.errors import RunError
from raise_mdit.runs import read_record, write_json
from raise_mdit.tracking import METRICS, STEP_AXES

SERVICE_FAULTS = (
    wandb.Error,
    WandbApiFailedError,
    HandleAbandonedError,
    ServerResponseError,  # of the client's own process, such as that a run is open in another
    TimeoutError,
)

PROBE_TIMEOUT = 5.0
"""Seconds that a server may take to answer anything at all, where nothing waits for it but us."""
INIT_TIMEOUT = 15
"""Seconds that a server may take to accept a run; W&B would wait 90."""
FINISH_TIMEOUT = 60.0
"""Seconds that a server may take for what is left at a run's end; W&B would wait forever."""
API_TIMEOUT = 30
"""Seconds that a server may take to answer a question."""

TRACKING_FOLDER = "tracking"
"""In a run directory: what the client writes."""
RUN_FILE = "wandb.json"
"""In the folder of an arm: which run of W&B it is."""
RUN_FORMAT = "raise-mdit/wandb-run/1"

Mode = Literal["offline", "online"]


@dataclass(frozen=True, kw_only=True)
class RunIdentity:
    """Which run of W&B an arm is."""

    id: str
    project: str
    entity: str | None
    """None is the key's own."""
    folder: str
    """Where the client keeps its log, relative to the run directory."""


@dataclass(frozen=True, kw_only=True)
class RunLabels:
    """How a run of W&B is called and found."""

    name: str
    group: str
    job_type: str
    tags: Sequence[str] = ()
    config: Mapping[str, object]
    sweep: str | None = None
    """Id of the sweep that the run is a point of."""


def log_in(*, verify: bool = True) -> None:
    """Check credentials, without ever asking for them at a terminal.

    Args:
        verify: With the server; otherwise only whether there are any.

    Raises:
        wandb.Error: There are none, there is no server, or they do not fit.
    """
    wandb.setup(settings=wandb.Settings(silent=True))  # also silences the login
    # wandb.init would find out too, but leaves a half-made run behind and asks for a missing key.
    if not wandb.login(prompt=False, verify=verify):
        raise wandb.Error("no credentials (set WANDB_API_KEY or run `wandb login`)")


def connect() -> wandb.Api:
    """The service, for what is done on its own account.

    Raises:
        RunError: There are no credentials, or the server does not take them or does not answer.
    """
    try:
        log_in(verify=False)  # a missing key is told as that, with a server or without
        reach(str(wandb.setup().settings.base_url))
        log_in()
        return wandb.Api(timeout=API_TIMEOUT)
    except SERVICE_FAULTS as fault:
        raise RunError(f"Weights & Biases: {reason(fault)}") from fault


def reach(address: str) -> None:
    """Ask whether a server is there at all, which the client would try for a minute.

    Any answer will do: after a 429 or 5xx the client tries again.

    Raises:
        RunError: None came.
    """
    try:
        urlopen(address, timeout=PROBE_TIMEOUT).close()
    except HTTPError as answer:
        answer.close()
    except OSError as fault:
        cause = fault.reason if isinstance(fault, URLError) else fault
        if isinstance(cause, ssl.SSLError):  # somebody is there; whom to trust is the client's
            return
        raise RunError(
            f"Weights & Biases: {address} does not answer ({cause}); check the network, and "
            "WANDB_BASE_URL if the server is your own, then run this again"
        ) from fault


def open_run(
    config: WandbConfig,
    labels: RunLabels,
    *,
    directory: Path,
    mode: Mode,
    run_id: str,
) -> wandb.Run:
    """A run of W&B, new or, where the service has one of that id, gone on with.

    Args:
        config: Project and entity.
        labels: Its name and so on.
        directory: Run directory, below which the client writes.
        mode: Whether to send now.
        run_id: Its id.

    Raises:
        wandb.Error: The service does not take it.
    """
    folder = directory / TRACKING_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    run = wandb.init(
        project=config.project,
        entity=config.entity,
        id=run_id,
        resume="allow" if mode == "online" else None,
        group=labels.group,
        job_type=labels.job_type,
        name=labels.name,
        tags=list(labels.tags),
        config=dict(labels.config),
        dir=folder,
        mode=mode,
        reinit="create_new",  # the run is ours; wandb.run stays the caller's
        settings=wandb.Settings(
            silent=True,
            console="off",
            init_timeout=INIT_TIMEOUT,
            finish_timeout=FINISH_TIMEOUT,
            finish_timeout_raises=True,
            disable_git=True,  # the directory is no repository, and code is not ours to send
            disable_code=True,
            sweep_id=labels.sweep,
        ),
    )
    for name in METRICS:  # also of a run that goes on: what is sent again takes the place of all
        run.define_metric(name, step_metric=STEP_AXES.get(name))
    return run


def write_identity(folder: Path, identity: RunIdentity) -> None:
    """Say in an arm's folder which run of W&B it is."""
    write_json(folder / RUN_FILE, {"format": RUN_FORMAT, **vars(identity)})


def read_identity(folder: Path) -> RunIdentity | None:
    """Which run of W&B an arm is, or None where it was not tracked.

    Raises:
        RunError: The file is damaged or of another format.
    """
    file = folder / RUN_FILE
    if not file.is_file():
        return None
    fields = read_record(file, form=RUN_FORMAT)
    del fields["format"]
    try:
        return RunIdentity(**fields)
    except TypeError as error:
        raise RunError(f"{file}: damaged ({error})") from error


def reason(fault: BaseException) -> str:
    """A fault of the service in one line."""
    lines = str(fault).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(fault).__name__


def warn(sentence: str) -> None:
    """Tell of a fault of the service in one line, without a traceback."""
    logging.getLogger(__name__).warning(sentence)
