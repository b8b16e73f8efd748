"""The messages between daemon and engine process, and the server at the engine's end."""

from __future__ import annotations

import json
import math
import socket
import threading
from dataclasses import asdict

import pytest

from lars_agent.example import Message
from lars_agent.runtime.engine import Engine
from lars_agent.runtime.engine_server import EngineServer
from lars_agent.runtime.request import Generation, GenerationRequest, Grammar, Piece, TokenChoice, TokenLogprob
from lars_agent.runtime.rpc import RpcConnection, generation_from, piece_from, request_from

TOKEN = TokenChoice(7, "\u00e9", -0.5)
LOGPROBS = (TokenLogprob(TOKEN, (TOKEN, TokenChoice(8, "", -math.inf))),)
NONE = (TokenLogprob(TokenChoice(7, "So", None), ()),)
MESSAGES = (Message(role="system", content=""), Message(role="user", content="Hi"))


@pytest.mark.parametrize(
    ("record", "read"),
    [
        (GenerationRequest(MESSAGES, version=3, stop=("a", "b"), logprobs=0, temperature=1), request_from),
        (GenerationRequest((), raw="Once", version=None, seed=2**63), request_from),
        (GenerationRequest((), grammar=Grammar(regex="a|é", field="f"), logit_bias=((5, -1.5),)), request_from),
        (GenerationRequest((), raw=(5, 7), prefill="So", echo=True), request_from),
        (Piece("Hel", LOGPROBS, is_last=True), piece_from),
        (
            Generation("Hel", "length", 3, 1, None, 5, (9, 7), 2, LOGPROBS, 0.5, 0.25, "So", NONE, LOGPROBS[0], "Hel"),
            generation_from,
        ),
    ],
)
def test_records_are_equal_after_the_socket(record, read):
    received = read(json.loads(json.dumps(asdict(record))))
    assert received == record
    assert type(received) is type(record)


def test_an_invalid_request_gets_an_error_and_the_server_continues(opened, store):
    engine = Engine(opened, store, threads=1)
    ours, theirs = (RpcConnection(end) for end in socket.socketpair())
    server = threading.Thread(target=EngineServer(theirs, engine).serve)
    server.start()
    try:
        valid = asdict(GenerationRequest(MESSAGES, max_new_tokens=2))
        ours.send({"id": 1, "do": "submit", "request": valid | {"max_new_tokens": "many"}})
        ours.send({"id": 2, "do": "submit", "request": valid})
        lines = iter(ours)
        refused = next(lines)
        assert (refused["id"], refused["error"]["type"]) == (1, "GenerationError")
        assert "max_new_tokens" in refused["error"]["message"]
        done = next(line for line in lines if "done" in line)
        assert generation_from(done["done"]).generated_tokens <= 2
    finally:
        ours.close()
        server.join(10)
        engine.close()
        theirs.close()
    assert not server.is_alive()
