"""What a run directory's `metrics.jsonl` says, for runs that are to be the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def timeless_records(directory: Path) -> list[dict[str, Any]]:
    """Records without what measures time."""
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    return [
        {
            key: value
            for key, value in json.loads(line).items()
            if not key.endswith("seconds") and key not in ("time/time_elapsed", "time/fps")
        }
        for line in lines
    ]
