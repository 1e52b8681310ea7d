import io

import pytest

from kit.progress import Progress, duration


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def run(stream, *, seconds, total=10, done=0):
    clock = Clock()
    progress = Progress("train", total, stream=stream, clock=clock, done=done)
    for step in range(done + 1, total + 1):
        clock.now += seconds
        progress.update(step, loss=f"{step / 10:.1f}")
    return stream.getvalue()


def test_a_file_gets_a_line_every_ten_seconds_and_one_at_the_end():
    lines = run(io.StringIO(), seconds=4).splitlines()
    assert [line.split(",")[0] for line in lines] == [
        "train: 1/10",
        "train: 4/10",
        "train: 7/10",
        "train: 10/10",
    ]


def test_the_time_left_is_shown_once_it_can_be_known():
    lines = run(io.StringIO(), seconds=30).splitlines()
    assert lines[1] == "train: 2/10, loss 0.2"
    assert lines[2] == "train: 3/10, loss 0.3, 3 min 30 s left"
    assert lines[-1] == "train: 10/10, loss 1.0"


def test_the_time_left_of_a_resumed_run_counts_its_own_steps_only():
    lines = run(io.StringIO(), seconds=10, total=20, done=10).splitlines()
    assert lines[2] == "train: 13/20, loss 1.3, 1 min 10 s left"


def test_a_terminal_gets_one_redrawn_line():
    shown = run(Terminal(), seconds=1)
    assert shown.count("\n") == 1
    assert shown.endswith("train: 10/10, loss 1.0\n")
    assert shown.count("\r\x1b[K") == 10


def test_the_total_may_become_known_on_the_way():
    stream = io.StringIO()
    Progress("send", 0, stream=stream, clock=Clock()).move(3, 3)
    assert stream.getvalue() == "send: 3/3\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_durations_are_for_people(seconds, text):
    assert duration(seconds) == text
