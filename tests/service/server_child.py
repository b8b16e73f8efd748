"""The server in a process of its own: `python -m tests.service.server_child CONFIG GO [WORKER_FLAG...]`.

Everything is real but the model and the worker: whoever asks for a reply leaves a file `asked` beside GO and gets it
once GO exists, and the stand-in learns.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

from lars_agent.store.adapters import AdapterStore
from service.server import serve
from service.settings.load import Settings, load_settings
from tests.service.api.conftest import FakeEngine, fake_app
from tests.service.house import STANDIN


class WaitingEngine(FakeEngine):
    """Replies once the file `go` exists."""

    def __init__(self, store, go: Path) -> None:
        super().__init__(store)
        self.go = go
        self.gate.clear()
        threading.Thread(target=self.wait, daemon=True).start()

    def wait(self) -> None:
        while not self.go.exists():
            time.sleep(0.02)
        self.gate.set()

    def submit(self, request):
        ticket = super().submit(request)
        self.go.with_name("asked").touch()
        return ticket


def main(config: str, go: str, *flags: str) -> None:
    def load() -> Settings:
        return load_settings(Path(config))

    def open_engine(installed) -> WaitingEngine:
        return WaitingEngine(AdapterStore(settings.adapters_dir), Path(go))

    settings = load()
    app = fake_app(settings, open_engine=open_engine, worker_command=(sys.executable, str(STANDIN), *flags))
    serve(app, settings, say, load)


def say(words: str) -> None:
    """In one piece: the log writes there too."""
    sys.stdout.write(f"{words}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
