"""The command ``raise-mdit``; the commands below it are those of :mod:`raise_mdit.commands`.

Exit codes: 0 done, 2 the user's mistake, 1 a fault of ours, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
from typing import Annotated

import typer

from raise_mdit import __version__
from raise_mdit.commands import mirror, pools, running, schedules
from raise_mdit.commands.console import err, out
from raise_mdit.errors import UserError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Learn which instructions to train a language model on next, and compare policies.",
    epilog="Begin with `raise-mdit run experiments/quickstart.yaml`. An experiment is one YAML "
    "file; docs/configuration.md lists its keys. Exit codes: 0 done, 2 a mistake in what was "
    "asked, 1 a fault of ours, 130 Ctrl-C.",
)
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)
"""Why a place takes no files."""


def _show_version(wanted: bool) -> None:
    if wanted:
        out.print(f"raise-mdit {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    pass  # the option has done its work


for commands in (running, pools, schedules, mirror):
    commands.register(app)


def main() -> None:
    """Run the command; a user's mistake ends in one message, never in a traceback."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # said, so that no fork warns
    try:
        app()  # exits with 2 for a wrong command line and with 130 after Ctrl-C
    except UserError as mistake:
        _fail(str(mistake), mistake.exit_code)
    except OSError as fault:
        where = f" ({fault.filename})" if fault.filename else ""
        if fault.errno == errno.ENOSPC:
            _fail(f"the disk is full{where}; free some space and resume with --out", 2)
        if fault.errno in UNWRITABLE:
            _fail(f"cannot be written{where}: {fault.strerror}; give another place", 2)
        raise


def _fail(message: str, exit_code: int) -> None:
    err.print(message, markup=False, highlight=False)
    sys.exit(exit_code)
