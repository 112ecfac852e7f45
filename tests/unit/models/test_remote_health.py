"""A silent server is found out once, then refused at once, and taken back when it answers."""

import threading
import time

import pytest

from citybrain.core.errors import ModelFailed, RemoteDown
from citybrain.models.remote_health import RemoteHealth


class Server:
    """Says that it is up, or down; counts who asked."""

    def __init__(self):
        self.up = True
        self.asked = 0

    def ask(self):
        self.asked += 1
        if not self.up:
            raise RemoteDown("Silent.", hint="Wait.")


@pytest.fixture
def server():
    return Server()


@pytest.fixture
def health(server):
    found = RemoteHealth(server.ask, "a server", pauses=(0.0, 0.02))
    yield found
    found.close()


def silent(health):
    with pytest.raises(RemoteDown):
        with health.call():
            raise RemoteDown("Nothing came.", hint="Wait.")


def back(health):
    until = time.monotonic() + 5
    while time.monotonic() < until:
        try:
            with health.call():
                return True
        except RemoteDown:
            time.sleep(0.005)
    return False


def test_one_call_pays_and_the_others_are_refused_at_once(server, health):
    server.up = False
    silent(health)
    for _ in range(100):
        with pytest.raises(RemoteDown, match="Nothing came"):
            with health.call():
                raise AssertionError("it was called")


def test_it_comes_back_by_itself(server, health):
    server.up = False
    silent(health)
    time.sleep(0.1)
    with pytest.raises(RemoteDown):
        health.check()
    server.up = True
    assert back(health)
    health.check()


def test_a_look_finds_it_silent_before_a_caller_does(server, health):
    health.check()
    server.up = False
    with pytest.raises(RemoteDown, match="Silent"):
        health.check()
    with pytest.raises(RemoteDown, match="Silent"):
        with health.call():
            raise AssertionError("it was called")


def test_a_server_at_work_may_be_too_busy_to_be_asked(server, health):
    server.up = False
    with health.call():
        health.check()
    with pytest.raises(RemoteDown):
        health.check()


def test_what_the_model_says_of_an_input_is_no_silence(health):
    for _ in range(3):
        with pytest.raises(ModelFailed):
            with health.call():
                raise ModelFailed("Not this one.")


def test_one_thread_asks_and_ends_with_the_runtime(server, health):
    server.up = False
    for _ in range(20):
        threads = [threading.Thread(target=lambda: health._fell_silent(RemoteDown("x")))]
        for thread in threads:
            thread.start()
    time.sleep(0.1)
    assert sum(t.name == "remote-health" for t in threading.enumerate()) == 1
    health.close()
    time.sleep(0.1)
    asked = server.asked
    time.sleep(0.1)
    assert server.asked == asked
