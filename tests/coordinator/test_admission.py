"""The queue for transfers: bounded, one place a site, oldest waiting first."""

import random
import threading

import pytest

from coordinator import admission
from coordinator.admission import Admission
from coordinator.errors import BusyError


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def turned_away(queue, site, subject="x"):
    with pytest.raises(BusyError) as busy:
        queue.reserve(site, subject)
    return busy.value.retry_after_s


def test_places_are_bounded_and_the_one_who_waited_longest_is_next():
    clock = Clock()
    queue = Admission(2, clock=clock)
    queue.reserve("a", "1")
    queue.reserve("b", "1")
    assert turned_away(queue, "c") <= turned_away(queue, "d")
    queue.release("a", "1")
    turned_away(queue, "e")
    turned_away(queue, "d")  # the free place is kept for who asked first
    queue.reserve("c", "1")
    queue.release("b", "1")
    turned_away(queue, "e")
    queue.reserve("d", "1")
    seen = queue.view()
    assert (seen.places, seen.running, seen.reserved, seen.waiting) == (2, 0, 2, 1)


def test_a_site_takes_one_place_however_often_it_asks():
    queue = Admission(2, clock=Clock())
    for _ in range(5):
        queue.reserve("a", "1")
    queue.reserve("b", "1")
    with queue.place("a", lambda: None), pytest.raises(BusyError, match="another transfer"):
        queue.reserve("a", "2")
    queue.reserve("a", "2")  # the first is over


def test_who_does_not_come_back_loses_the_turn_and_a_reserved_place_that_is_not_used_too():
    clock = Clock()
    queue = Admission(1, clock=clock)
    queue.reserve("a", "1")
    late = turned_away(queue, "b")
    turned_away(queue, "c")
    clock.now += late + admission.LATE_S + 1
    turned_away(queue, "c")
    clock.now += admission.RESERVED_S
    queue.reserve("c", "1")
    assert queue.view().waiting == 0


def test_the_same_transfer_asked_for_again_ends_its_earlier_call_first():
    queue, told, inside = Admission(1), threading.Event(), threading.Event()
    order = []

    def earlier():
        with queue.place("a", told.set):
            inside.set()
            told.wait(10)
            order.append("earlier call ended")

    queue.reserve("a", "1")
    thread = threading.Thread(target=earlier)
    thread.start()
    assert inside.wait(10)
    turned_away(queue, "b")
    queue.reserve("a", "1")
    order.append("asked again")
    thread.join()
    assert order == ["earlier call ended", "asked again"]
    with queue.place("a", lambda: None):  # and keeps its place: site b did not slip in
        turned_away(queue, "b")


def test_a_hundred_sites_at_once_are_all_served_and_in_turn():
    clock, draw = Clock(), random.Random(3)
    queue = Admission(4, clock=clock)
    sites = [f"s{number}" for number in range(100)]
    comes_back = dict.fromkeys(sites, 0.0)
    served, running, longest = [], [], 0.0
    while len(served) < len(sites):
        for site, _ in [r for r in running if r[1] <= clock.now]:
            queue.release(site, "x")
        running = [r for r in running if r[1] > clock.now]
        for site in [s for s in comes_back if comes_back[s] <= clock.now]:
            try:
                queue.reserve(site, "x")
            except BusyError as busy:
                comes_back[site] = clock.now + busy.retry_after_s
                longest = max(longest, busy.retry_after_s)
            else:
                del comes_back[site]
                served.append(site)
                running.append((site, clock.now + draw.uniform(0.5, 3)))
        assert len(running) <= 4
        clock.now += 0.1
    # Places that are free together may be taken in either order; no site is overtaken by more.
    assert all(abs(served.index(site) - rank) < 4 for rank, site in enumerate(sites))
    assert queue.view().waiting == 0
    assert longest <= admission.MAX_RETRY_S
