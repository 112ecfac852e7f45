"""The short way for inference, over sockets: what uvicorn does for others still holds for it."""

import asyncio
import contextlib
import gzip
import json
import socket
import threading
import time

import pytest
from support_door import ADMIN
from support_site import Site, answers, ask

from citybrain.core.keys import sign_session
from citybrain.core.schemas import NewGrant
from citybrain.serving.gateway.exchange import Exchange
from citybrain.serving.wire import Reply, Served, error_reply


@pytest.fixture
def site(tmp_path):
    with Site(tmp_path).open() as found:
        yield found


def test_an_answer_has_its_headers_and_its_row_in_the_journal(site):
    ((status, headers, body),) = ask(site, site.request(b'{"inputs":[1]}'))
    assert (status, body, site.short) == (200, b'{"inputs":[1]}', 1)
    assert headers["content-type"] == "application/json"
    assert "total;dur=" in headers["server-timing"]
    assert [line[1] for line in site.settled()] == [headers["x-request-id"]]


def test_a_connection_carries_many_calls_in_turn_and_at_once(site):
    requests = [site.request(json.dumps({"n": n}).encode()) for n in range(20)]
    with site.connect() as connection:
        for number, request in enumerate(requests):
            connection.sendall(request)
            assert json.loads(answers(connection)[0][2]) == {"n": number}
    found = ask(site, b"".join(requests), count=20)
    assert [json.loads(body)["n"] for _, _, body in found] == list(range(20))
    assert site.short == 21, "who does not wait for an answer is answered in order by uvicorn"


def test_what_a_known_head_says_holds_only_as_long_as_the_tables_do(site):
    with site.connect() as connection:

        def status():
            connection.sendall(site.request(b"{}"))
            return answers(connection)[0][0]

        assert [status(), status()] == [200, 200]
        (grant,) = site.people.grants()
        site.people.revoke_grant(grant.id, ADMIN)
        site.directory.load()
        assert status() == 403
        site.people.add_grant(NewGrant(department="health", algorithm="flow"), ADMIN)
        site.directory.load()
        assert [status(), status()] == [200, 200]
        site.people.revoke_key(site.directory.identify(site.key).id, ADMIN)
        site.directory.load()
        assert status() == 401


def test_a_consoles_session_ends_by_the_clock_on_an_open_connection_too(site):
    key = site.directory.identify(site.key)
    cookie = f"cb_session={sign_session(b'pepper', key.id, 2)}"
    request = site.request(authorization=None, cookie=cookie, x_requested_with="citybrain")
    began, seen = time.monotonic(), []
    with site.connect() as connection:
        while not seen or (seen[-1] == 200 and time.monotonic() < began + 8):
            connection.sendall(request)
            seen.append(answers(connection)[0][0])
            time.sleep(0.1)
    assert (seen[:3], seen[-1]) == ([200] * 3, 401)
    assert time.monotonic() < began + 4


def test_a_known_head_before_another_body_or_in_pieces_is_read_again(site):
    whole = site.request(b"0123456789")
    with site.connect() as connection:
        for number in range(3):
            connection.sendall(whole[:-1] + str(number).encode())
            assert answers(connection)[0][2] == b"012345678%d" % number
        connection.sendall(whole[:40])
        time.sleep(0.05)
        connection.sendall(whole[40:])
        assert answers(connection)[0][2] == b"0123456789"
        connection.sendall(whole + whole)
        assert [body for _, _, body in answers(connection, 2)] == [b"0123456789"] * 2
        connection.sendall(whole[:-4])
        time.sleep(0.05)
        connection.sendall(b"ABCD" + whole)
        assert [body for _, _, body in answers(connection, 2)] == [b"012345ABCD", b"0123456789"]
        connection.sendall(site.request(b"0123456789", x_purpose="spying"))
        assert answers(connection)[0][0] == 403
        connection.sendall(whole)
        assert answers(connection)[0][2] == b"0123456789"


def test_an_idle_connection_is_closed_after_a_while(site):
    site.server.config.timeout_keep_alive = 1
    with site.connect() as connection:
        connection.sendall(site.request())
        assert answers(connection)[0][0] == 200
        assert connection.recv(1) == b""


def test_pieces_of_any_size_make_one_call(site):
    request = site.request(b"x" * 300)
    ((status, _, body),) = ask(site, *(request[i : i + 7] for i in range(0, len(request), 7)))
    assert (status, body) == (200, b"x" * 300)
    large = b"y" * 1_000_000
    assert ask(site, site.request(large))[0][2] == large
    assert site.short == 2


def test_binary_answers_say_where_their_header_ends(site):
    async def binary(calls):
        assert [c.header_length for c in calls] == [2]
        return Served([Reply(b"{}\0\1", 2, 1, "", "")])

    site.answer = binary
    request = site.request(b"{}\0\1", inference_header_content_length="2")
    ((status, headers, body),) = ask(site, request)
    assert (status, headers["content-type"], body) == (200, "application/octet-stream", b"{}\0\1")
    assert headers["inference-header-content-length"] == "2"


def test_what_asks_more_of_http_is_answered_too_by_the_longer_way(site):
    packed = gzip.compress(b"{}" * 9)
    chunked = site.request(b"", content_length=None, transfer_encoding="chunked")
    connection = site.connect()
    connection.sendall(site.request(b"hello", expect="100-continue")[:-5])
    assert connection.recv(100).startswith(b"HTTP/1.1 100 Continue")
    connection.sendall(b"hello")
    assert answers(connection)[0][2] == b"hello"
    assert ask(site, site.request(packed, content_encoding="gzip"))[0][2] == b"{}" * 9
    assert ask(site, chunked + b"3\r\nabc\r\n0\r\n\r\n")[0][2] == b"abc"
    assert ask(site, site.request(b"", "/v2/health/live", "GET"))[0][2] == b'{"live":true}'
    assert site.short == 0


@pytest.mark.parametrize(
    ("words", "status", "code"),
    [
        ({"key": "cb_no"}, 401, "bad_key"),
        ({"path": "/v2/models/none/infer"}, 403, "not_granted"),
        ({"path": "/v2/models/flow/versions/9/infer"}, 404, "version_not_found"),
        ({"path": "/v2/nothing/infer"}, 404, "not_found"),
        ({"x_request_timeout_ms": "soon"}, 422, "invalid_input"),
        ({"body": b"z" * (1 << 20) + b"z"}, 413, "too_large"),
        ({"x_purpose": "spying"}, 403, "not_granted"),
    ],
)
def test_an_error_is_a_problem_and_the_connection_goes_on(site, words, status, code):
    ((found, headers, body),) = ask(site, site.request(**words))
    assert (found, json.loads(body)["code"]) == (status, code)
    assert headers["content-type"] == "application/problem+json"
    assert headers["x-request-id"] == json.loads(body)["request_id"]
    assert ask(site, site.request())[0][0] == 200


def test_errors_of_the_model_and_of_a_full_queue_are_told(site):
    async def fails(calls):
        return Served([error_reply("model_failed", "broken", "look")] * len(calls))

    site.answer = fails
    ((status, headers, body),) = ask(site, site.request())
    assert (status, json.loads(body)["hint"]) == (500, "look")
    assert json.loads(body)["request_id"] == headers["x-request-id"] == site.settled()[0][1]
    assert [line[9] for line in site.settled()] == [500]


def test_a_full_queue_is_said_at_once_with_when_to_come_back(site):
    site.settings.max_queued = 1
    release = asyncio.Event()

    async def waits(calls):
        await release.wait()
        return await site.echo(calls)

    site.answer = waits
    with contextlib.ExitStack() as stack:
        taken = [stack.enter_context(site.connect()) for _ in range(3)]
        for connection in taken:  # two frames are away, one call waits
            connection.sendall(site.request())
            time.sleep(0.05)
        ((status, headers, _),) = ask(site, site.request())
        assert (status, headers["retry-after"]) == (429, "1")
        site.loop.call_soon_threadsafe(release.set)
        assert [answers(connection)[0][0] for connection in taken] == [200] * 3


def test_a_connection_that_asks_to_end_ends(site):
    with site.connect() as connection:
        connection.sendall(site.request(connection="close"))
        ((status, headers, _),) = answers(connection)
        assert (status, headers["connection"], connection.recv(1)) == (200, "close", b"")


def test_who_hangs_up_while_waiting_never_reaches_the_model(site):
    seen, release = [], asyncio.Event()

    async def waits(calls):
        seen.extend(c.body for c in calls)
        await release.wait()
        return await site.echo(calls)

    site.answer = waits
    busy = [site.connect() for _ in range(2)]
    for connection in busy:
        connection.sendall(site.request(b"busy"))
        time.sleep(0.05)
    with site.connect() as gone:
        gone.sendall(site.request(b"gone"))
        time.sleep(0.1)
    time.sleep(0.1)
    site.loop.call_soon_threadsafe(release.set)
    assert [answers(connection)[0][0] for connection in busy] == [200, 200]
    assert seen == [b"busy", b"busy"]
    for _ in range(100):
        if len(lines := site.settled()) == 3:
            break
        time.sleep(0.02)
    assert sorted(line[9] for line in lines) == [200, 200, 499]


def test_a_call_away_is_answered_before_the_server_ends(site):
    async def slow(calls):
        await asyncio.sleep(0.5)
        return await site.echo(calls)

    site.answer = slow
    with site.connect() as connection:
        connection.sendall(site.request(b"last"))
        time.sleep(0.1)
        site.server.should_exit = True
        ((status, headers, body),) = answers(connection)
        assert (status, headers["connection"], body) == (200, "close", b"last")


def test_who_does_not_read_is_sent_no_more_and_who_reads_gets_all(site):
    large = b"w" * 900_000
    with site.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        sender = threading.Thread(
            target=lambda: [connection.sendall(site.request(large)) for _ in range(30)]
        )
        sender.start()
        time.sleep(0.5)
        assert len(site.settled()) < 30
        found = answers(connection, 30)
        sender.join()
    assert [len(body) for _, _, body in found] == [len(large)] * 30


@pytest.mark.parametrize("sent", [b"", b"POST /v2/mod", None])
def test_a_client_that_is_too_slow_is_cut_off(site, sent):
    began = time.monotonic()
    with site.connect() as connection:
        connection.sendall(site.request(b"x" * 500)[:-1] if sent is None else sent)
        assert connection.recv(100).startswith(b"HTTP/1.1 408 ")
        assert connection.recv(100) == b""
    assert 1.0 < time.monotonic() - began < 5
    assert ask(site, site.request())[0][0] == 200


def test_a_steady_client_may_take_its_time(site):
    request = site.request(b"x" * 9000)
    pieces = [request[i : i + 400] for i in range(0, len(request), 400)]
    assert ask(site, *pieces, pause=0.1)[0][2] == b"x" * 9000


def test_an_exchange_stands_where_uvicorn_looks_for_its_own_cycle():
    """The names that uvicorn's protocol reads of its current cycle."""
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

    for name in ("disconnected", "response_complete", "keep_alive", "message_event", "body"):
        assert name in Exchange.__slots__
        assert name in RequestResponseCycle.__init__.__code__.co_names
