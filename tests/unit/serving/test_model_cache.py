"""Models by measured bytes: the oldest goes, what is asked for comes back, nobody waits for ever."""

import threading
import time

import pytest

from citybrain.serving.model_cache import Loaded, ModelCache, Turns, resident


class Shelf:
    """Loads names as models of the size that the test says, and remembers each load."""

    def __init__(self, **sizes):
        self.sizes, self.loads, self.broken, self.seconds = sizes, [], set(), 0.0

    def __call__(self, name):
        time.sleep(self.seconds)
        self.loads.append(name)
        if name in self.broken:
            raise OSError(name)
        return Loaded(f"model {name}", self.sizes[name])


def test_the_one_not_used_longest_goes_when_the_bytes_are_too_many():
    shelf = Shelf(a=40, b=40, c=40)
    cache = ModelCache(100, shelf)
    for name in ("a", "b", "a", "c"):
        assert cache.get(name) == f"model {name}"
    assert cache.sizes == {"a": 40, "c": 40}
    assert cache.get("b") == "model b"  # loaded again
    assert cache.sizes == {"c": 40, "b": 40}
    assert shelf.loads == ["a", "b", "c", "b"]


def test_room_is_made_before_a_load_whose_size_is_known():
    shelf = Shelf(a=60, b=60)
    cache = ModelCache(100, shelf)
    cache.get("a")
    cache.get("b")
    seen = []
    load = cache._load
    cache._load = lambda name: (seen.append(cache.sizes), load(name))[1]
    cache.get("a")
    assert seen == [{}]


def test_a_model_above_the_limit_is_kept_while_it_is_the_only_one():
    shelf = Shelf(huge=500, small=1)
    cache = ModelCache(100, shelf)
    for _ in range(3):
        cache.get("huge")
    assert shelf.loads == ["huge"]
    cache.get("small")
    assert cache.sizes == {"small": 1}


def test_a_load_that_fails_is_told_and_harms_no_other():
    shelf = Shelf(a=1, b=1)
    cache = ModelCache(100, shelf)
    cache.get("a")
    shelf.broken = {"b"}
    for _ in range(2):
        with pytest.raises(OSError, match="b"):
            cache.get("b")
    assert cache.sizes == {"a": 1}
    shelf.broken = set()
    assert cache.get("b") == "model b"


def test_many_who_ask_at_once_cause_one_load():
    shelf = Shelf(a=1)
    shelf.seconds = 0.1
    cache = ModelCache(100, shelf)
    threads = [threading.Thread(target=cache.get, args=("a",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert shelf.loads == ["a"]


def test_a_model_is_loaded_anew_or_dropped_when_told():
    shelf = Shelf(a=1)
    cache = ModelCache(100, shelf)
    cache.get("a")
    shelf.sizes["a"] = 7
    cache.renew("a")
    assert (cache.sizes, shelf.loads) == ({"a": 7}, ["a", "a"])
    cache.drop("a")
    cache.drop("never there")
    assert cache.sizes == {}


def test_no_model_is_mixed_up_or_lost_under_many_threads_and_little_room():
    names = [f"m{n}" for n in range(6)]
    cache = ModelCache(50, Shelf(**dict.fromkeys(names, 20)))
    wrong = []

    def work(number):
        for step in range(200):
            name = names[(number * 7 + step * step) % 6]
            if cache.get(name) != f"model {name}":
                wrong.append(name)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert sum(cache.sizes.values()) <= 50


def test_turns_go_to_whoever_waits_longest():
    turns, order, waiting = Turns(), [], []
    with turns:
        for number in range(5):

            def take(number=number):
                with turns:
                    order.append(number)

            waiting.append(threading.Thread(target=take))
            waiting[-1].start()
            while len(turns._waiting) <= number:
                time.sleep(0.001)
    for thread in waiting:
        thread.join()
    assert order == [0, 1, 2, 3, 4]
    with turns:  # free again
        pass


def test_resident_memory_grows_with_what_is_kept():
    before = resident()
    kept = bytearray(b"x" * (64 << 20))
    assert resident() - before > 0.9 * len(kept)
