"""The rows of any source that a data section names."""

from __future__ import annotations

from raise_mdit.config import DataConfig, PlaygroundSource, SourceConfig
from raise_mdit.sources import playground
from raise_mdit.sources.records import SourceRows, read_source


def read_rows(source: SourceConfig, data: DataConfig) -> SourceRows:
    """Its examples, with what could not be read.

    Args:
        source: One of those of the section.
        data: Says where files are and what becomes of bad rows.

    Raises:
        DataError: As :func:`raise_mdit.sources.records.read_source`.
    """
    if isinstance(source, PlaygroundSource):
        rows = playground.generate(source.seed, source.rows_per_family, source=source.name)
        return SourceRows(tuple(rows), (), 0)
    return read_source(source, root=data.root, on_bad_row=data.on_bad_row)
