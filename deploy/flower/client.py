"""A client of a federation, whose local step is the training worker of lars-agent on a job directory.

Run by the Python of deploy/flower/requirements.txt; the worker runs by lars-agent's own. Each round the averaged
adapter comes in, the worker goes on from it with the examples of --job, and the adapter goes out: the average plus an
update whose 2-norm is at most --clip, with noise if wanted. Nothing else is sent: no text, no id, no loss, no count.
The server sends numbers, never a program. The last average lies in --work/adapter.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"  # read at import

import flwr
import numpy
from clipping import Arrays, clipped  # beside this file
from safetensors.numpy import load_file, save_file

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
KEPT = ("train.jsonl", "heldout.jsonl")
# The adapter before anything is learned: the same for all who have the same base model, configuration and seed.
FIRST = """
import sys
from pathlib import Path
from lars_agent.lars import LarsAdapter, save_adapter
from lars_agent.models.open import empty_model
from lars_agent.training.job_directory import JobSpec
spec = JobSpec.read(Path(sys.argv[1]))
adapter = LarsAdapter.for_model(empty_model(Path(spec.model_path)), spec.lars, seed=0)
save_adapter(adapter, Path(sys.argv[2]), base_model=spec.base_model, revision=spec.base_model_revision)
"""


class JobClient(flwr.client.NumPyClient):  # type: ignore[misc]  # flwr is no dependency of lars-agent
    """One device of a federation."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.round = 0
        self.adapter = given.work / "adapter"
        shutil.rmtree(given.work, ignore_errors=True)
        given.work.mkdir(parents=True, mode=0o700)
        subprocess.run([given.python, "-P", "-c", FIRST, str(given.job), str(self.adapter)], check=True)
        self.keys = sorted(load_file(self.adapter / WEIGHTS))

    def get_parameters(self, config: dict[str, Any]) -> Arrays:
        """Return the adapter before anything was learned, which is everybody's."""
        return self._tensors(self.adapter)

    def fit(self, parameters: Arrays, config: dict[str, Any]) -> tuple[Arrays, int, dict[str, Any]]:
        """Return the adapter after a local step. Every client counts alike, however much it has learned from."""
        self._take(parameters)
        self.round += 1
        folder = self._train()
        learned = self._tensors(folder / "candidate")
        sent = clipped(parameters, learned, self.given.clip, self.given.noise, numpy.random.default_rng())
        shutil.rmtree(folder)
        return sent, 1, {}

    def evaluate(self, parameters: Arrays, config: dict[str, Any]) -> tuple[float, int, dict[str, Any]]:
        """Take the average of a round; nothing is told about it."""
        self._take(parameters)
        return 0.0, 1, {}

    def _take(self, parameters: Arrays) -> None:
        """Make the average the adapter to go on from. Raises ValueError for one that is no such adapter."""
        known = load_file(self.adapter / WEIGHTS)
        if len(parameters) != len(self.keys):
            raise ValueError(f"the server sent {len(parameters)} arrays, the adapter has {len(self.keys)}")
        for key, array in zip(self.keys, parameters, strict=True):
            if array.shape != known[key].shape or not numpy.isfinite(array).all():
                raise ValueError(f"the server sent no array for {key}")
        tensors = {key: array.astype(known[key].dtype) for key, array in zip(self.keys, parameters, strict=True)}
        save_file(tensors, self.adapter / WEIGHTS)

    def _train(self) -> Path:
        """Run the worker on a copy of the job that goes on from the average; return the copy."""
        folder = self.given.work / f"round-{self.round}"
        folder.mkdir()
        for name in KEPT:
            shutil.copyfile(self.given.job / name, folder / name)
        spec = json.loads((self.given.job / "job.json").read_text(encoding="utf-8"))
        spec |= {"start": str(self.adapter), "parent": str(self.adapter), "job_id": folder.name}
        spec["training"] |= {"steps": self.given.steps, "warmup_steps": 0, "seed": self.round}
        (folder / "job.json").write_text(json.dumps(spec), encoding="utf-8")
        command = [self.given.python, "-P", "-m", "lars_agent.training.worker", str(folder)]
        subprocess.run(command, check=True, stdout=sys.stderr)
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        if result["status"] != "succeeded":
            raise RuntimeError(f"the local step failed: {result['error']}")
        line = {"round": self.round, "heldout_loss": result["incumbent"]["reply_loss"]}
        with (self.given.work / "losses.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")  # of the average, before this step; stays here
        return folder

    def _tensors(self, folder: Path) -> Arrays:
        tensors = load_file(folder / WEIGHTS)
        return [tensors[key] for key in self.keys]


def main() -> None:
    """Take part until the server has done its rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", required=True, help="host:port")
    parser.add_argument("--job", type=Path, required=True, help="a job directory of the daemon's")
    parser.add_argument("--work", type=Path, required=True, help="folder for the rounds; emptied first")
    parser.add_argument("--python", default="/opt/lars-agent/venv/bin/python", help="of lars-agent's installation")
    parser.add_argument("--clip", type=float, default=1.0, help="largest 2-norm of an update")
    parser.add_argument("--noise", type=float, default=0.0, help="standard deviation of noise, in parts of --clip")
    parser.add_argument("--steps", type=int, default=20, help="optimizer steps of a round")
    parser.add_argument("--ca", type=Path, help="ca.pem of the server")
    parser.add_argument("--insecure", action="store_true", help="without TLS: for loopback, or through a tunnel")
    given = parser.parse_args()
    if given.ca is None and not given.insecure:
        parser.error("give --ca FILE, or --insecure for loopback or a tunnel")
    os.umask(0o077)
    certificate = None if given.ca is None else given.ca.read_bytes()
    flwr.client.start_client(
        server_address=given.server,
        client=JobClient(given).to_client(),
        root_certificates=certificate,
        insecure=given.insecure,
    )


if __name__ == "__main__":
    main()
