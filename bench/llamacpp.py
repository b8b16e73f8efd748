"""llama.cpp as npm has it built (`node-llama-cpp`), on the GGUF file that the default model was made from."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from shutil import which
from typing import Any

from bench.contenders import PROMPT_TOKENS, REPLY_TOKENS
from bench.text_prompt import text_of
from lars_agent.errors import LarsError
from lars_agent.models.open import open_tokenizer
from lars_agent.models.sources import Progress, default_gguf

PACKAGE = "node-llama-cpp@3.22.1"
SCRIPT = Path(__file__).with_name("llamacpp.mjs")


class LlamaCpp:
    """The program and its model under `cache`, fetched when they are not there. Raises LarsError without node."""

    def __init__(self, cache: Path, model: Path, tell: Progress) -> None:
        if which("npm") is None or which("node") is None:
            raise LarsError("llama.cpp is run by node, which is not installed")
        self._folder = cache / "llamacpp"
        self._module = self._folder / "node_modules" / "node-llama-cpp" / "dist" / "index.js"
        self._gguf = self._folder / "model.gguf"
        if not self._module.exists():
            self._install()
        if not self._gguf.exists():
            downloads = self._folder / "downloads"
            downloads.mkdir(parents=True, exist_ok=True)
            default_gguf(downloads, self._gguf, tell)
        self._tokenizer = open_tokenizer(model)

    def figures(self, threads: int, *, flash: bool) -> dict[str, Any]:
        """Seconds of one run in a process of its own."""
        text = text_of(self._tokenizer, PROMPT_TOKENS)
        ids = {"warmUp": self._tokenizer.encode(text[: len(text) // 2]), "prompt": self._tokenizer.encode(text)}
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(ids, file)
            file.flush()
            command = ["node", str(SCRIPT), str(self._module), str(self._gguf), str(threads), file.name]
            done = subprocess.run(
                [*command, str(REPLY_TOKENS)],
                env={"PATH": "/usr/local/bin:/usr/bin:/bin", "LLAMACPP_FLASH": str(int(flash))},
                capture_output=True,
                text=True,
                check=False,
            )
        if done.returncode:
            raise LarsError(f"llama.cpp failed: {(done.stderr.strip().splitlines() or ['it said nothing'])[-1]}")
        return dict(json.loads(done.stdout.strip().splitlines()[-1]))

    def _install(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        command = ["npm", "install", "--prefix", str(self._folder), "--ignore-scripts", "--no-audit", PACKAGE]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise LarsError(f"{PACKAGE} could not be installed: {done.stderr.strip()}")
