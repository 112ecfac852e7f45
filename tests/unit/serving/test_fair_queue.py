"""Who goes next, and who may wait: emergencies, but not alone; departments in turn; nobody without end."""

from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from citybrain.core.errors import Overloaded
from citybrain.serving.gateway.fair_queue import IN_A_ROW, FairQueue
from citybrain.serving.gateway.waiting_room import WaitingRoom


@dataclass
class Item:
    department: str
    urgent: bool = False
    number: int = 0
    size: int = 1


def line(most, of_a_department, room=None):
    return FairQueue(most, of_a_department, room or WaitingRoom(1 << 30))


def pushed(queue, *items):
    """Who gave a place up for them."""
    return [gone for item in items for gone in queue.push(item)]


def drained(queue):
    return [queue.take(1) for _ in range(len(queue))]


def test_departments_take_turns_and_each_keeps_its_order():
    queue = line(100, 100)
    for number in range(50):
        queue.push(Item("flood", number=number))
    for number in range(3):
        queue.push(Item("health", number=number))
    order = drained(queue)
    places = [index for index, item in enumerate(order) if item.department == "health"]
    assert max(places) <= 5, "three calls wait behind three of the flood, not behind fifty"
    for department in ("flood", "health"):
        numbers = [item.number for item in order if item.department == department]
        assert numbers == sorted(numbers)


def test_what_is_swept_out_gives_back_its_room_and_the_others_keep_their_order():
    room = WaitingRoom(1 << 30)
    queue = line(100, 100, room)
    for number in range(30):
        queue.push(Item(f"d{number % 3}", urgent=number % 5 == 0, number=number, size=number))
    out = queue.sweep(lambda item: item.number % 2 or item.department == "d0")
    left = [number for number in range(30) if number % 2 == 0 and number % 3]
    assert sorted(item.number for item in out) == sorted(set(range(30)) - set(left))
    assert (len(queue), room.used) == (len(left), sum(left))
    assert room.urgent == sum(number for number in left if number % 5 == 0)
    order = [queue.take(1 << 20) for _ in range(len(left))]
    for department in ("d1", "d2"):
        numbers = [i.number for i in order if i.department == department and not i.urgent]
        assert numbers == sorted(numbers)
    assert queue.take(1) is None
    assert (len(queue), room.used, room.urgent) == (0, 0, 0)


def test_emergencies_go_first_and_starve_nobody():
    queue = line(1000, 1000)
    for number in range(40):
        queue.push(Item("traffic", number=number))
        queue.push(Item("fire", urgent=True, number=number))
    order = drained(queue)
    assert all(item.urgent for item in order[:IN_A_ROW])
    assert not order[IN_A_ROW].urgent
    first = order[: 4 * (40 // IN_A_ROW)]
    assert Counter(item.urgent for item in first) == {True: 39, False: 13}


def test_a_department_over_its_share_is_refused_while_others_are_taken():
    queue = line(10, 4)
    for _ in range(4):
        queue.push(Item("flood"))
    with pytest.raises(Overloaded, match="of flood"):
        queue.push(Item("flood"))
    for _ in range(4):
        queue.push(Item("health"))
    queue.push(Item("safety"))
    queue.push(Item("tourism"))
    with pytest.raises(Overloaded, match="10 calls of this algorithm"):
        pushed(queue, *(Item("safety") for _ in range(4)))
    assert len(queue) == 10


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans())), st.data())
def test_nothing_is_lost_doubled_or_overtaken_by_its_own_kind(pushes, data):
    queue = line(10_000, 10_000)
    came = []
    for number, (department, urgent) in enumerate(pushes):
        queue.push(Item(department, urgent, number))
        while len(queue) and data.draw(st.booleans()):
            assert queue.take(0) is None, "it takes a byte"
            came.append(queue.take(1))
    came += drained(queue)
    assert sorted(item.number for item in came) == list(range(len(pushes)))
    for kind in {(item.department, item.urgent) for item in came}:
        numbers = [i.number for i in came if (i.department, i.urgent) == kind]
        assert numbers == sorted(numbers)
    assert queue.take(1) is None
    assert len(queue) == 0


def flooded(most=12, **more):
    """A line that two departments have filled."""
    queue = line(most, most // 2, **more)
    for number in range(most // 2):
        pushed(queue, Item("flood", number=number), Item("deluge", number=number))
    assert len(queue) == most
    return queue


def test_an_emergency_finds_a_place_where_two_departments_took_all():
    queue = flooded()
    gone = pushed(queue, *(Item("fire", urgent=True, number=n) for n in range(3)))
    assert [(item.department, item.number) for item in gone] == [
        ("flood", 5), ("deluge", 5), ("flood", 4),
    ]  # fmt: skip
    assert len(queue) == 12
    assert all(item.urgent for item in drained(queue)[:3])


def test_who_has_less_than_the_others_finds_a_place_until_shares_are_equal():
    queue = flooded()
    for _ in range(4):
        assert pushed(queue, Item("health"))[0].department in ("flood", "deluge")
    with pytest.raises(Overloaded):
        pushed(queue, Item("health"))
    with pytest.raises(Overloaded):
        pushed(queue, Item("flood"))
    assert Counter(item.department for item in drained(queue)) == dict.fromkeys(
        ("flood", "deluge", "health"), 4
    )


def test_a_flood_of_emergencies_leaves_a_quarter_to_the_others():
    queue = line(12, 12)
    pushed(queue, *(Item("fire", urgent=True) for _ in range(12)))
    assert [item.urgent for item in pushed(queue, *(Item("health") for _ in range(3)))] == [
        True
    ] * 3
    with pytest.raises(Overloaded):
        pushed(queue, Item("health"))
    with pytest.raises(Overloaded):
        pushed(queue, Item("fire", urgent=True))
    assert pushed(queue, Item("police", urgent=True))[0].department == "fire"
    assert pushed(queue, Item("tourism"))[0].department == "health"


def test_bytes_are_bounded_over_all_lines_and_who_takes_most_gives_way():
    room = WaitingRoom(100)
    one, other = line(99, 99, room), line(99, 99, room)
    pushed(one, *(Item("flood", size=10, number=n) for n in range(8)))
    assert pushed(other, Item("health", size=20)) == []
    with pytest.raises(Overloaded, match="100 bytes"):
        pushed(one, Item("flood", size=1))
    gone = pushed(other, Item("tourism", size=15))
    assert [(item.department, item.number) for item in gone] == [("flood", 7), ("flood", 6)]
    assert (room.used, len(one), len(other)) == (95, 6, 2)
    with pytest.raises(Overloaded):
        pushed(other, Item("tourism", size=60))
    assert len(one) == 6, "who cannot be helped sends nobody away"
    gone = pushed(other, Item("fire", urgent=True, size=70))
    assert {item.department for item in gone} == {"flood", "health"}
    with pytest.raises(Overloaded):
        pushed(other, Item("fire", urgent=True, size=20))
    while item := other.take(100) or one.take(100):
        assert item.size
    assert (room.used, room.urgent) == (0, 0)


@given(
    st.integers(1, 9), st.integers(1, 9), st.integers(4, 40),
    st.lists(st.tuples(st.sampled_from("abcd"), st.booleans(), st.integers(0, 12), st.booleans())),
)  # fmt: skip
def test_whoever_comes_the_bounds_hold_and_each_call_has_one_end(most, each, bytes_, steps):
    room = WaitingRoom(bytes_)
    queues = [line(most, each, room) for _ in range(2)]
    inside, ends = {}, []
    for number, (department, urgent, size, take) in enumerate(steps):
        queue, item = queues[number % 2], Item(department, urgent, number, size)
        try:
            gone = pushed(queue, item)
            inside[number] = item
        except Overloaded:
            gone = []
        if take and (taken := queue.take(99)) is not None:
            gone = [*gone, taken]
        for one in gone:
            del inside[one.number]
            ends.append(one.number)
        assert room.used == sum(one.size for one in inside.values()) <= bytes_
        assert room.urgent == sum(one.size for one in inside.values() if one.urgent)
        assert sum(map(len, queues)) == len(inside)
        assert max(map(len, queues)) <= most
    for queue in queues:
        for item in iter(lambda queue=queue: queue.take(99), None):
            ends.append(inside.pop(item.number).number)
    assert not inside
    assert len(ends) == len(set(ends))
