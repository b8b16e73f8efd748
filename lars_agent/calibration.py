"""What was measured once on this device, kept in a JSON file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from lars_agent.errors import ConfigError
from lars_agent.files import make_folder, read_plain, write_atomically
from lars_agent.records import from_json, parse_json, to_dict

Record = TypeVar("Record")


class Calibration:
    """Measured records in one file, by names that tell the device and what was measured."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def get(self, kind: type[Record], name: str, measure: Callable[[], tuple[Record, bool]]) -> Record:
        """Return the record that is kept under `name`; else measure it, and keep it if it is steady, the second value.

        A damaged file is replaced.
        """
        known: dict[str, Any] = {}
        try:
            known = dict(parse_json(read_plain(self.path)))
            return from_json(kind, known[name])
        except (OSError, ValueError, TypeError, KeyError, ConfigError):
            measured, is_steady = measure()
        if is_steady:
            make_folder(self.path.parent)
            write_atomically(self.path, json.dumps(known | {name: to_dict(measured)}, indent=1) + "\n")
        return measured
