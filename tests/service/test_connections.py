"""Limits on connections, kept by the real server on real sockets."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from service import connections
from service.api import errors
from service.connections import LimitedServer, address_of
from service.process.addresses import THIS_DEVICE
from service.process.connection_counts import ConnectionCounts
from service.settings.server import Server
from tests.service.house import until

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
HEADER = b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
SHORT = {f"{kind}_timeout_s": 0.4 for kind in ("header", "body", "idle", "send")}
LARGE_BYTES = 64_000_000  # more than the kernel keeps for a client


async def hello(request: Request) -> PlainTextResponse:
    return PlainTextResponse("hello")


async def body(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(len(await request.body())))


async def late(request: Request) -> PlainTextResponse:
    await asyncio.sleep(1.0)
    return PlainTextResponse("late")


async def stream(request: Request) -> StreamingResponse:
    async def events() -> Iterator[str]:
        while True:
            yield "event\n"
            await asyncio.sleep(0.5)

    return StreamingResponse(events())


async def large(request: Request) -> PlainTextResponse:
    return PlainTextResponse("x" * LARGE_BYTES)


@pytest.fixture
def serving(monkeypatch):
    """`with serving(**limits) as address` runs the server; it looks at its connections ten times a second."""
    monkeypatch.setattr(connections, "SWEEP_TICKS", 1)
    app = Starlette(routes=[Route(f"/{one.__name__}", one) for one in (late, stream, large)])
    app.routes.extend((Route("/", hello), Route("/body", body, methods=["POST"])))
    errors.install(app)

    @contextmanager
    def run(counts: ConnectionCounts | None = None, **limits) -> Iterator[tuple[str, int]]:
        limits = {"max_connections": 16, "max_connections_per_address": 4, "port": 0, **limits}
        server = LimitedServer(app, Server(**limits), counts, log_level="warning", lifespan="off")
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            until(lambda: server.started, "the server listens")
            yield server.servers[0].sockets[0].getsockname()
        finally:
            server.should_exit = server.force_exit = True  # whatever it is answering
            thread.join()

    return run


@pytest.fixture
def connected():
    """`connected(address, sent)` connects and sends; all are closed at the end."""
    with ExitStack() as stack:

        def connect(address: tuple[str, int], sent: bytes = b"", source: str = "127.0.0.1") -> socket.socket:
            client = stack.enter_context(socket.create_connection(address, timeout=20, source_address=(source, 0)))
            client.sendall(sent)
            return client

        yield connect


def answer(client: socket.socket) -> tuple[int, str]:
    """Status and body, of a stream what has come of it; (0, "") where the connection has ended."""
    text, missing = b"", 1
    try:
        while missing > 0 and (piece := client.recv(65536)):
            text += piece
            head, end, body = text.partition(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head)
            missing = (int(length[1]) if length else 0) - len(body) if end else 1
    except ConnectionResetError:
        pass
    return (int(head.split()[1]), body.decode()) if text else (0, "")


def is_open(client: socket.socket) -> bool:
    """Tell whether it is; an error that it was sent before its end is read."""
    client.setblocking(False)
    try:
        while client.recv(65536):
            pass
        return False
    except BlockingIOError:
        return True
    except ConnectionResetError:
        return False
    finally:
        client.settimeout(20)


def trickle(client: socket.socket, byte: bytes) -> tuple[int, str]:
    """Send a byte ten times a second, which must not go on for ever; the answer."""
    client.settimeout(0.1)
    for _ in range(100):
        try:
            client.sendall(byte)
            return answer(client)
        except TimeoutError:
            continue
        except OSError:  # closed while it was sent
            return answer(client)
    raise AssertionError("it is let trickle on")


@pytest.mark.parametrize("sent", [b"", GET[:9], HEADER % 99 + b"x"], ids=["silent", "header", "body"])
def test_a_new_connection_takes_the_place_of_the_oldest_without_a_whole_request(serving, connected, sent):
    with serving() as address:
        first = [connected(address, sent) for _ in range(4)]
        for client in first:
            assert is_open(client)
        more = [connected(address, sent) for _ in range(20)]
        owner = connected(address, GET)
        assert answer(owner) == (200, "hello")
        until(lambda: not any(map(is_open, [*first, *more[:17]])), "the oldest are gone")
        assert all(map(is_open, more[17:]))


def test_what_has_been_quiet_for_longest_goes_first_and_a_body_on_its_way_last(serving, connected):
    with serving() as address:
        busy = connected(address, HEADER % 1_000_000 + 900_000 * b"x")
        silent, served = connected(address), connected(address, GET)
        assert answer(served) == (200, "hello")
        more = [connected(address, GET[:9]) for _ in range(2)]
        until(lambda: not is_open(silent), "the silent one is gone")
        assert is_open(served)
        more += [connected(address, GET[:9]) for _ in range(2)]
        until(lambda: not is_open(served) and not is_open(more[0]), "the others are gone")
        busy.sendall(100_000 * b"x")
        assert answer(busy) == (200, "1000000")


def test_what_is_being_answered_is_never_shed_and_one_more_is_refused(serving, connected):
    with serving() as address:
        streams = [connected(address, GET.replace(b"/", b"/stream", 1)) for _ in range(4)]
        assert [answer(client)[0] for client in streams] == [200] * 4
        status, text = answer(connected(address))
        assert status == 503
        assert json.loads(text)["error"]["type"] == "unavailable_error"
        assert all(b"event" in client.recv(65536) for client in streams)
        streams[0].close()
        until(lambda: answer(connected(address, GET)) == (200, "hello"), "its place is free")


def test_no_neighbour_takes_the_places_of_this_device_or_of_another_neighbour(serving, connected, monkeypatch):
    monkeypatch.setattr(
        connections, "address_of", lambda client, server: THIS_DEVICE if client[0] == "127.0.0.1" else client[0]
    )
    busy = GET.replace(b"/", b"/stream", 1)
    with serving() as address:
        for number in range(2, 6):  # 16 of 12 places that are not this device's
            crowd = [connected(address, busy, source=f"127.0.0.{number}") for _ in range(4)]
            statuses = {answer(client)[0] for client in crowd}
            assert statuses == ({200} if number < 5 else {503})
            if number < 5:
                assert answer(connected(address, source=f"127.0.0.{number}"))[0] == 503
        assert answer(connected(address, GET)) == (200, "hello")


def test_a_header_that_trickles_is_answered_with_408(serving, connected):
    with serving(header_timeout_s=0.4) as address:
        status, text = trickle(connected(address, GET[:-2]), b"a")
        assert status == 408
        assert "header_timeout_s" in json.loads(text)["error"]["message"]


def test_connections_are_counted_and_those_that_are_ended_by_the_reason(serving, connected):
    counts = ConnectionCounts()
    with serving(counts, header_timeout_s=0.4) as address:
        clients = [connected(address, b"GET / HTTP/1.1\r\n") for _ in range(4)]
        until(lambda: counts.open == 4, "all are accepted")
        assert (counts.accepted, counts.ended.total()) == (4, 0)
        clients.append(connected(address, b"GET"))
        until(lambda: counts.accepted == 5, "one more is accepted")
        assert (counts.open, counts.ended["full"]) == (4, 1)
        until(lambda: counts.open == 0, "all have been too slow")
        assert counts.ended == {"full": 1, "late": 4}


def test_a_body_that_trickles_is_answered_with_408_and_its_application_is_told(serving, connected, capfd):
    with serving(body_timeout_s=0.4) as address:
        status, text = trickle(connected(address, HEADER % 999), b"a")
        assert (status, json.loads(text)["error"]["type"]) == (408, "timeout_error")
    assert "Traceback" not in capfd.readouterr().err


def test_a_second_request_that_trickles_is_answered_with_408(serving, connected):
    with serving(header_timeout_s=0.4) as address:
        client = connected(address, GET)
        assert answer(client) == (200, "hello")
        assert trickle(client, GET[:1])[0] == 408


def test_a_body_on_its_way_has_more_time(serving, connected):
    with serving(body_timeout_s=0.4) as address:
        client = connected(address, HEADER % 60_000)
        for _ in range(6):
            client.sendall(10_000 * b"x")
            time.sleep(0.2)
        assert answer(client) == (200, "60000")


def test_requests_that_are_answered_late_or_for_ever_are_not_cut(serving, connected):
    with serving(**SHORT) as address:
        waiting, streaming = (connected(address, GET.replace(b"/", path, 1)) for path in (b"/late", b"/stream"))
        assert answer(waiting) == (200, "late")
        assert answer(streaming)[0] == 200
        assert [b"event" in streaming.recv(100) for _ in range(3)] == [True] * 3


def test_an_idle_connection_is_closed_without_words(serving, connected):
    with serving(**SHORT) as address:
        silent, served = connected(address), connected(address, GET)
        assert answer(served) == (200, "hello")
        assert [client.recv(100) for client in (silent, served)] == [b"", b""]


@pytest.mark.parametrize("close", [b"", b"Connection: close\r\n"])
def test_a_client_that_takes_nothing_of_its_answer_is_let_go(serving, connected, close):
    with serving(**SHORT) as address:
        client = connected(address, GET.replace(b"/", b"/large", 1)[:-2] + close + b"\r\n")
        time.sleep(1.5)
        took = 0
        try:
            while piece := client.recv(1_000_000):
                took += len(piece)
        except ConnectionResetError:
            pass
        assert 0 < took < LARGE_BYTES


def test_what_is_not_http_is_answered_as_every_other_error(serving, connected):
    with serving() as address:
        status, text = answer(connected(address, b"\x16\x03\x01 is TLS\r\n\r\n"))
        assert (status, json.loads(text)["error"]["code"]) == (400, 400)


@pytest.mark.parametrize(
    ("client", "server", "counted_for"),
    [
        ("127.0.0.1", "127.0.0.1", THIS_DEVICE),
        ("127.9.9.9", "127.0.0.1", THIS_DEVICE),
        ("::1", "::1", THIS_DEVICE),
        ("::ffff:127.0.0.1", "::ffff:127.0.0.1", THIS_DEVICE),
        ("192.168.1.5", "192.168.1.5", THIS_DEVICE),
        ("192.168.1.6", "192.168.1.5", "192.168.1.6"),
        ("::ffff:192.168.1.6", "::ffff:192.168.1.5", "192.168.1.6"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::2%eth0", "fe80::/64"),
    ],
)
def test_a_connection_counts_for_its_address(client, server, counted_for):
    assert address_of((client, 5), (server, 80)) == counted_for
