"""Laws of the display: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import io

import pytest

from img2img_data.core import command_line
from img2img_data.core.command_line import Display, format_duration


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock: a list whose last item is the time."""
    clock = [0.0]
    monkeypatch.setattr(command_line.time, "monotonic", lambda: clock[-1])
    return clock


def test_without_a_terminal_there_is_a_line_now_and_then(seconds: list[float]) -> None:
    stream = io.StringIO()
    with Display(stream) as display:
        report = display.report("verify")
        for done in range(0, 500, 10):
            seconds.append(done / 10)
            report(done, 1000)
        display.line("a line")
    lines = stream.getvalue().splitlines()
    assert lines[0] == "verify: 100 of 1,000 images, 10 images/s, 90 s left"
    assert lines[-1] == "a line"
    assert len(lines) == 5


def test_parts_are_counted_on_their_own(seconds: list[float]) -> None:
    stream = io.StringIO()
    with Display(stream) as display:
        report = display.report("restoring", "files", "frames")
        report(1, 3)
        report(1, 50, "restoring a.mp4")
        seconds.append(20.0)
        report(41, 50, "restoring a.mp4")
        report(2, 3)
        seconds.append(60.0)
        report(3, 3)
    assert stream.getvalue().splitlines() == [
        "restoring a.mp4: 41 of 50 frames, 2 frames/s, 4 s left",
        "restoring: 3 of 3 files, 0.025 files/s",
    ]


def test_no_time_left_is_shown_before_it_means_something(seconds: list[float]) -> None:
    stream = io.StringIO()
    with Display(stream) as display:
        report = display.report("blur")
        report(0, 88)
        for second, done in ((11, 1), (22, 9), (33, 66)):  # the workers start, then they work
            seconds.append(second)
            report(done, 88)
    first, second, third = stream.getvalue().splitlines()
    assert first == "blur: 1 of 88 images, 0.091 images/s"
    assert "left" not in second
    assert third.endswith("2 images/s, 11 s left")


def test_work_done_before_does_not_count_in_the_rate(seconds: list[float]) -> None:
    display = Display(io.StringIO())
    display.begin("training", 300, done=100)
    seconds.append(10.0)
    assert display.rate(200) == 10
    assert display.time_left(200) == "10 s"


def test_on_a_terminal_there_is_a_bar_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(command_line, "REFRESH_SECONDS", 0.0)
    stream = Terminal()
    with Display(stream) as display:
        report = display.report("merge")
        for done in range(1, 6):
            report(done, 5)
        display.line("[not markup]")
    assert "merge" in stream.getvalue()
    assert "5/5" in stream.getvalue()
    assert "[not markup]\n" in stream.getvalue()


@pytest.mark.parametrize(
    ("number", "words"), [(45, "45 s"), (720, "12 min"), (12_000, "3 h 20 min")]
)
def test_durations_in_words(number: float, words: str) -> None:
    assert format_duration(number) == words
