"""The server of a federation: averages the adapters that its clients send; it learns from nothing itself.

Run by the Python of deploy/flower/requirements.txt. It keeps nothing: each client has the last average.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"  # read at import

import flwr
from flwr.server.strategy import FedAvg


def main() -> None:
    """Serve the rounds: federated averaging (McMahan et al., 2017) in which every client counts alike."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listen", default="127.0.0.1:8080", help="host:port")
    parser.add_argument("--clients", type=int, default=2, help="fewest clients of a round")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--tls", type=Path, help="folder with ca.pem, server.pem and server.key")
    parser.add_argument("--insecure", action="store_true", help="without TLS: for loopback, or through a tunnel")
    given = parser.parse_args()
    if given.tls is None and not given.insecure:
        parser.error("give --tls FOLDER, or --insecure for loopback or a tunnel")
    names = ("ca.pem", "server.pem", "server.key")
    least = {f"min_{what}_clients": given.clients for what in ("fit", "evaluate", "available")}
    flwr.server.start_server(
        server_address=given.listen,
        config=flwr.server.ServerConfig(num_rounds=given.rounds),
        strategy=FedAvg(**least),
        certificates=None if given.tls is None else tuple((given.tls / name).read_bytes() for name in names),
    )


if __name__ == "__main__":
    main()
