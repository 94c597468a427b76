"""Whether the embedded data have what is asked of them, told before a run is begun."""

from __future__ import annotations

from raise_mdit.config import DataConfig, PlaygroundSource
from raise_mdit.sources.reading import read_rows
from raise_mdit.splits import allot, shares_of


def check_embedded_shares(data: DataConfig) -> None:
    """Nothing, if the shares of embedded sources can be given.

    What a file or the hub holds is known when it is read; the embedded rows are made at once.

    Raises:
        DataError: As :func:`raise_mdit.splits.allot`; the message begins with the key to mend.
    """
    embedded = {each.name: each for each in data.sources if isinstance(each, PlaygroundSource)}
    rows = {name: read_rows(source, data).examples for name, source in embedded.items()}
    allot(rows, shares_of(embedded, data))
