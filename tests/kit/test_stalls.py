import threading

from kit.stalls import PROGRESS_BYTES, Watch


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_only_waiting_without_progress_ends_a_transfer():
    clock, ended = Clock(), []
    watch = Watch(10, clock=clock)
    with watch.over(lambda: ended.append("still")) as still, watch.over(ended.append) as busy:
        with still.waiting():
            for _ in range(5):  # a slow line that moves is never ended
                clock.now += 8
                still.moved(PROGRESS_BYTES)
                watch.check()
            clock.now += 8
            still.moved(PROGRESS_BYTES - 1)  # a trickle is no progress
            watch.check()
            assert not ended
            clock.now += 3
            watch.check()
            watch.check()
        assert ended == ["still"]
        assert (still.ended, busy.ended) == (True, False)


def test_time_that_is_not_spent_waiting_for_the_other_end_does_not_count():
    clock, ended = Clock(), []
    watch = Watch(10, clock=clock)
    with watch.over(lambda: ended.append(1)) as patience:
        for _ in range(3):
            with patience.waiting():
                clock.now += 3
            clock.now += 1000  # our own disk, our own arithmetic
            watch.check()
        assert not ended
        with patience.waiting():
            clock.now += 3
            watch.check()
        assert ended == [1]


def test_a_running_watch_ends_by_itself_and_forgets_what_is_over():
    gone = threading.Event()
    watch = Watch(0.05)
    watch.start()
    try:
        with watch.over(lambda: None):
            pass
        with watch.over(gone.set) as patience, patience.waiting():
            assert gone.wait(10)
    finally:
        watch.stop()
