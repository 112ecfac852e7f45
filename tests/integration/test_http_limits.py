"""What a client may cost before and while it calls, over raw sockets: heads, framing, time, memory."""

import asyncio
import contextlib
import json
import os
import socket
import threading
import time

import psutil
import pytest
from support import wait_for
from support_door import ADMIN, PATH
from support_site import Site, answers, ask

from citybrain.core.keys import key_digest, new_key
from citybrain.core.schemas import NewDepartment, NewGrant, NewKey
from citybrain.serving.wire import Reply, Served
from citybrain.storage.journal import journals, read_from

FULL = "TRUST_FULL" in os.environ
IDLE = 5_000 if FULL else 500
CALLS = 1_000 if FULL else 300
INFER = f"POST {PATH} HTTP/1.1\r\nhost: city\r\ncontent-length: 2\r\n"
OTHER = "GET /v2/health/live HTTP/1.1\r\nhost: city\r\n"


@pytest.fixture
def site(tmp_path):
    with Site(tmp_path).open() as found:
        yield found


def sent(connection, data):
    """How much of it went out before the server hung up."""
    try:
        for begin in range(0, len(data), 65536):
            connection.sendall(data[begin : begin + 65536])
    except OSError:
        return begin
    return len(data)


def refusal(site, data):
    """Status and code of what a client is told that sends this, and that it is hung up on."""
    began = time.monotonic()
    with site.connect() as connection:
        sent(connection, data)
        ((status, headers, body),) = answers(connection)
        assert headers["connection"] == "close"
        with contextlib.suppress(OSError):
            assert connection.recv(1) == b""
    assert time.monotonic() - began < 5
    return status, json.loads(body)["code"]


def alive(site):
    return ask(site, site.request(b"{}"))[0][0] == 200


@pytest.mark.parametrize("first", [INFER, OTHER])
@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("".join(f"x-{n}: 1\r\n" for n in range(70)) + "\r\n", (431, "head_too_large")),
        (f"x: {'y' * 17_000}\r\n\r\n", (431, "head_too_large")),
        ("".join(f"x-{n}: {'y' * 50_000}\r\n" for n in range(200)), (431, "head_too_large")),
        (f"x: {'y' * 1_000_000}", (431, "head_too_large")),
        ("y" * 100_000, (431, "head_too_large")),
    ],
)
def test_a_head_with_too_many_or_too_long_headers_is_refused(site, first, more, told):
    for signed in ("", f"authorization: Bearer {site.key}\r\n"):
        assert refusal(site, (first + signed + more).encode()) == told
    assert alive(site)


@pytest.mark.parametrize("end", ["", " HTTP/1.1\r\nhost: city\r\n\r\n"])
@pytest.mark.parametrize("length", [9_000, 200_000])
def test_a_long_url_is_refused(site, length, end):
    assert refusal(site, f"POST {PATH}?{'q' * length}{end}".encode()) == (414, "url_too_long")
    assert alive(site)


def test_a_head_within_its_limits_is_taken_in_pieces_too(site):
    many = {f"x_{n}": "1" for n in range(60)}
    assert ask(site, site.request(b"{}", **many))[0][0] == 200
    long = site.request(b"{}", x="y" * 15_000)
    assert ask(site, long)[0][0] == 200
    pieces = [long[begin : begin + 1000] for begin in range(0, len(long), 1000)]
    assert ask(site, *pieces, pause=0.001)[0][0] == 200
    path = f"/v2/health/live?{'q' * 8_000}"
    assert ask(site, site.request(b"", path, "GET"))[0][0] == 200


def test_heads_without_end_take_no_memory(site):
    process, most = psutil.Process(), 0
    data = (INFER + "".join(f"x-{n}: {'y' * 50_000}\r\n" for n in range(400))).encode()
    before = process.memory_info().rss

    def send():
        with site.connect() as connection:
            for begin in range(0, len(data), 1 << 16):
                try:
                    connection.sendall(memoryview(data)[begin : begin + (1 << 16)])
                except OSError:
                    return

    threads = [threading.Thread(target=send) for _ in range(16)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        most = max(most, process.memory_info().rss - before)
        time.sleep(0.01)
    assert most < 60e6, "sixteen heads of 20 MB"
    assert alive(site)


def test_a_refusal_waits_behind_the_answer_that_is_due(site):
    release = asyncio.Event()

    async def waits(calls):
        await release.wait()
        return await site.echo(calls)

    site.answer = waits
    with site.connect() as connection:
        connection.sendall(site.request(b"first"))
        time.sleep(0.1)
        connection.sendall((INFER + f"x: {'y' * 20_000}").encode())
        time.sleep(0.1)
        site.loop.call_soon_threadsafe(release.set)
        ((status, headers, body),) = answers(connection)
        assert (status, headers["connection"], body) == (200, "close", b"first")
        assert connection.recv(1) == b""


def chunked(site, *chunks, tail=b"0\r\n\r\n", **headers):
    head = site.request(b"", content_length=None, transfer_encoding="chunked", **headers)
    return head + b"".join(chunks) + tail


def test_chunks_that_are_hardly_more_than_framing_are_refused(site):
    one = b"1\r\n \r\n"
    assert refusal(site, chunked(site, one * 1_000_000)) == (400, "bad_request")
    extension = b"2;" + b"e" * 1_000_000 + b"\r\n{}\r\n"
    assert refusal(site, chunked(site, extension)) == (400, "bad_request")
    trailers = b"2\r\n{}\r\n0\r\n" + b"t: 1\r\n" * 200_000
    assert refusal(site, chunked(site, trailers)) == (400, "bad_request")
    assert refusal(site, chunked(site, b"nonsense\r\n")) == (400, "bad_request")
    assert alive(site)


def test_small_chunks_and_trailers_are_taken(site):
    pieces = [b"a" * 100] * 9_000
    body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    assert ask(site, chunked(site, body))[0][2] == b"".join(pieces)
    # What comes behind the body is no header of the request.
    tail = f"0\r\nauthorization: Bearer {site.key}\r\n\r\n".encode()
    assert ask(site, chunked(site, b"2\r\n{}\r\n", tail=tail, key="cb_no"))[0][0] == 401
    keyless = chunked(site, b"2\r\n{}\r\n", tail=tail, authorization=None)
    assert ask(site, keyless)[0][0] == 401


def test_the_rest_of_a_refused_body_is_not_read_for_long(site):
    size = 200_000_000
    with site.connect() as connection:
        connection.sendall(site.request(b"", key="cb_no", content_length=str(size)))
        assert answers(connection)[0][0] == 401
        assert sent(connection, bytes(size)) < 30_000_000
    with site.connect() as connection:  # a short rest is, and the connection goes on
        connection.sendall(site.request(b"", key="cb_no", content_length="5000"))
        assert answers(connection)[0][0] == 401
        connection.sendall(b"x" * 5000 + site.request(b"{}"))
        assert answers(connection)[0][0] == 200


def test_more_connections_than_the_setting_are_told_to_come_back(site):
    site.settings.max_connections = 4
    with contextlib.ExitStack() as stack:
        taken = [stack.enter_context(site.connect()) for _ in range(4)]
        for connection in taken:
            connection.sendall(site.request(b"{}"))
            assert answers(connection)[0][0] == 200
        with site.connect() as late:
            ((status, headers, body),) = answers(late)
            assert (status, headers["retry-after"]) == (503, "1")
            assert json.loads(body)["code"] == "unavailable"
            assert late.recv(1) == b""
        # Who is idle gives way to others when it becomes crowded.
        wait_for(lambda: not site.server.server_state.connections, 6)
    assert alive(site)


def test_bodies_on_their_way_in_have_room_in_all(site):
    site.dispatch.room.most = 1_000_000
    whole = site.request(b"x" * 600_000)
    with site.connect() as first, site.connect() as second:
        first.sendall(whole[:500_000])
        time.sleep(0.2)
        second.sendall(whole[:590_000])
        ((status, headers, body),) = answers(first)
        assert (status, json.loads(body)["code"]) == (429, "overloaded")
        assert headers["connection"] == "close"
        second.sendall(whole[590_000:])
        assert answers(second)[0][0] == 200
    assert site.dispatch.room.arriving == 0


def held(site):
    """A model that answers when it is told to, and the word."""
    release = asyncio.Event()

    async def waits(calls):
        await release.wait()
        return await site.echo(calls)

    site.answer = waits
    return lambda: site.loop.call_soon_threadsafe(release.set)


def filled(site, stack, count, body=b"{}", **words):
    """So many callers that wait."""
    found = [stack.enter_context(site.connect()) for _ in range(count)]
    for connection in found:
        connection.sendall(site.request(body, **words))
        time.sleep(0.02)
    return found


def test_bytes_of_waiting_calls_have_room_in_all(site):
    site.dispatch.room.most = 1_000_000
    release = held(site)
    with contextlib.ExitStack() as stack:
        away = filled(site, stack, 2)
        waiting = filled(site, stack, 2, b"x" * 480_000)
        ((status, headers, _),) = ask(site, site.request(b"x" * 100_000))
        assert (status, headers["retry-after"]) == (429, "1")
        small = filled(site, stack, 1)
        release()
        assert [answers(c)[0][0] for c in [*away, *waiting, *small]] == [200] * 5
    assert (site.dispatch.room.used, site.dispatch.room.arriving) == (0, 0)


def key_of(site, department, purpose):
    """A key of a new department that may call for this purpose."""
    site.people.add_department(NewDepartment(name=department), ADMIN)
    key_id, secret = new_key("emb")
    new = NewKey(department=department, purposes=[purpose])
    site.people.add_key(new, key_id, key_digest(b"pepper", secret), ADMIN)
    grant = NewGrant(department=department, algorithm="flow", purpose=purpose)
    site.people.add_grant(grant, ADMIN)
    return secret


def test_emergencies_and_small_callers_are_answered_though_two_departments_took_every_place(site):
    keys = {name: key_of(site, name, "operation") for name in ("economy", "parks")}
    keys["fire"] = key_of(site, "fire", "emergency")
    site.directory.load()
    site.settings.max_queued, site.settings.max_queued_department = 8, 4
    release = held(site)
    with contextlib.ExitStack() as stack:
        away = filled(site, stack, 2)
        health, economy = (filled(site, stack, 4, key=key) for key in (site.key, keys["economy"]))
        assert ask(site, site.request())[0][0] == 429
        few = filled(site, stack, 1, key=keys["fire"]) + filled(site, stack, 1, key=keys["parks"])
        for displaced in (health.pop(), economy.pop()):
            ((status, _, body),) = answers(displaced)
            assert (status, json.loads(body)["code"]) == (429, "overloaded")
        release()
        for connection in [*few, *away, *health, *economy]:
            assert answers(connection)[0][0] == 200
    assert sorted(line[9] for line in site.settled()) == [200] * 10 + [429] * 2


def test_refused_calls_leave_sums_in_the_journal_and_not_a_line_each(site):
    site.settings.max_queued = 1
    release = held(site)
    with contextlib.ExitStack() as stack:
        waiting = filled(site, stack, 3)
        for _ in range(20):
            assert ask(site, site.request())[0][0] == 429
        assert ask(site, site.request(key=site.stranger))[0][0] == 403
        none = site.request(path="/v2/models/none-such/infer", key=site.stranger)
        assert ask(site, none)[0][0] == 403
        refusal(site, (OTHER + f"x: {'y' * 20_000}\r\n\r\n").encode())
        release()
        assert [answers(connection)[0][0] for connection in waiting] == [200] * 3
    site.dispatch.refusals.write(last=True)
    site.journal.flush()
    (path,) = journals(site.folder / "journal")
    found = sorted(line[2:] for line in read_from(path, 0, kinds="R")[0])
    assert found == [
        ["", "", 0, "head_too_large", 1], ["health", "flow", 2, "overloaded", 20],
        ["tourism", "", 0, "not_granted", 1], ["tourism", "flow", 0, "not_granted", 1],
    ]  # fmt: skip


def test_when_to_come_back_follows_the_line(site):
    site.settings.max_queued, site.settings.max_frame_calls = 12, 1

    async def slow(calls):
        await asyncio.sleep(0.6)
        return await site.echo(calls)

    site.answer = slow
    with contextlib.ExitStack() as stack:
        first = filled(site, stack, 1)
        assert answers(first[0])[0][0] == 200
        filled(site, stack, 14)
        ((status, headers, body),) = ask(site, site.request())
        assert status == 429
        assert 3 <= int(headers["retry-after"]) <= 5, "twelve calls, two at a time, 0.6 s each"
        assert f"again in {headers['retry-after']} s" in json.loads(body)["hint"]


def test_a_body_that_comes_in_drops_is_cut_off_however_fast_it_began(site):
    for begin in (b"", b"x" * 900_000):
        began = time.monotonic()
        with site.connect() as connection:
            connection.sendall(site.request(begin, content_length="1000000"))
            connection.settimeout(0.2)
            found = b""
            while not found and time.monotonic() < began + 8:
                with contextlib.suppress(TimeoutError):
                    found = connection.recv(100)
                with contextlib.suppress(OSError):
                    connection.sendall(b"x")
        assert found.startswith(b"HTTP/1.1 408 ")
        assert time.monotonic() - began < 5
    assert alive(site)


def large(site, size=900_000):
    async def answer(calls):
        return Served([Reply(b"w" * size, -1, 1, "", "") for _ in calls])

    site.answer = answer


def test_who_does_not_read_its_answers_is_hung_up_on(site):
    large(site, 20_000_000)
    with site.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        connection.sendall(site.request(b"{}", connection="close"))
        assert connection.recv(1000)
        wait_for(lambda: not site.server.server_state.connections, 6)
    site.answer = site.echo
    assert alive(site)


def test_who_reads_slowly_but_steadily_gets_all(site):
    large(site, 3_000_000)
    with site.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        connection.sendall(site.request(b"{}"))
        seen = 0
        while seen < 3_000_000:
            seen += len(connection.recv(60_000))
            time.sleep(0.06)
    assert alive(site)


def worst(site, calls):
    """The 99th percentile in seconds of calls in turn on one connection."""
    took, request = [], site.request(b"{}")
    with site.connect() as connection:
        for _ in range(calls):
            began = time.perf_counter()
            connection.sendall(request)
            assert answers(connection)[0][0] == 200
            took.append(time.perf_counter() - began)
    return sorted(took)[int(0.99 * calls)]


def test_normal_calls_do_not_notice_idle_and_slow_clients(site):
    """I4: slow heads, slow bodies, who sends nothing, and who does not read."""
    site.settings.slow_client = 3.0
    alone = min(worst(site, CALLS) for _ in range(3))
    kinds = [b"", b"POST /v2/mod", site.request(b"x" * 500)[:-400], site.request(b"{}")]
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(site.connect()) for _ in range(IDLE)]
        for number, connection in enumerate(idle):
            connection.sendall(kinds[number % len(kinds)])
        beside = min(worst(site, CALLS) for _ in range(3))
        figures = {"alone_ms": round(alone * 1e3, 2), "beside_ms": round(beside * 1e3, 2)}
        print(figures)
        assert beside <= max(1.2 * alone, alone + (0.005 if FULL else 0.02)), figures
        kept = IDLE // len(kinds)  # who was answered, and may call again
        wait_for(lambda: len(site.server.server_state.connections) <= kept, 15)
        site.server.config.timeout_keep_alive = 1
    assert alive(site)
