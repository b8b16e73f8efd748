"""A daemon of its own process, with the fake engine: `python -m tests.service.api.child DATA_DIR PORT`."""

from __future__ import annotations

import sys
from pathlib import Path

import uvicorn

from service.settings.load import Settings
from tests.service.api.conftest import fake_app


def main(data_dir: str, port: str) -> None:
    settings = Settings(data_dir=Path(data_dir), schedule={"enabled": False})
    uvicorn.run(fake_app(settings), host="127.0.0.1", port=int(port), log_level="warning")


if __name__ == "__main__":
    main(*sys.argv[1:])
