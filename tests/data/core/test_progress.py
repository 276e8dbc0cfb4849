"""Laws of the display: a bar on a terminal, a line a minute elsewhere; the next command."""

from __future__ import annotations

import io
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from img2img_data.core import command_line
from img2img_data.core.command_line import Display, format_duration, shell_line


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock: a list whose last item is the time."""
    clock = [0.0]
    monkeypatch.setattr(command_line.time, "monotonic", lambda: clock[-1])
    return clock


def test_without_a_terminal_there_is_a_line_a_minute_and_the_first_is_early(
    seconds: list[float],
) -> None:
    stream = io.StringIO()
    with Display(stream) as display:
        report = display.report("verify")
        for done in range(0, 2000, 10):
            seconds.append(done / 10)
            report(done, 2000)
            display.routine_line("one of many")
        display.line("a line")
    assert stream.getvalue().splitlines() == [
        "verify: 100 of 2,000 images, 10 images/s, 3 min left",
        "verify: 700 of 2,000 images, 10 images/s, 2 min left",
        "verify: 1,300 of 2,000 images, 10 images/s, 70 s left",
        "verify: 1,900 of 2,000 images, 10 images/s, 10 s left",
        "a line",
    ]


def test_parts_are_counted_on_their_own(seconds: list[float]) -> None:
    stream = io.StringIO()
    with Display(stream) as display:
        report = display.report("restoring", "files", "frames")
        report(1, 3)
        report(0, 50, "restoring a.mp4")
        for second, frames in ((1.0, 1), (21.0, 41)):
            seconds.append(second)
            report(frames, 50, "restoring a.mp4")
        report(2, 3)
        seconds.append(90.0)
        report(3, 3)
    assert stream.getvalue().splitlines() == [
        "restoring a.mp4: 41 of 50 frames, 2 frames/s, 4 s left",
        "restoring: 3 of 3 files",
    ]


def test_no_time_left_is_shown_before_it_means_something(seconds: list[float]) -> None:
    stream = io.StringIO()
    with Display(stream) as display:
        report = display.report("blur")
        report(0, 288)
        for second, done in ((11, 1), (72, 9), (133, 123)):  # the workers start, then they work
            seconds.append(second)
            report(done, 288)
    assert stream.getvalue().splitlines() == [
        "blur: 1 of 288 images",
        "blur: 9 of 288 images, 0.13 images/s",
        "blur: 123 of 288 images, 1 images/s, 3 min left",
    ]


def test_a_status_takes_the_place_of_the_counts(seconds: list[float]) -> None:
    stream = io.StringIO()
    with Display(stream) as display:
        display.begin("training", 900)
        for second in range(1, 12):
            seconds.append(second)
            display.advance(8 * second, status=lambda: ("epoch 1/2, step 10/20", "l1 0.5"))
    (line,) = stream.getvalue().splitlines()
    assert line == "training: epoch 1/2, step 10/20, 8 images/s, 2 min left, l1 0.5"


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
        display.begin("training", 9)
        display.advance(3, status=lambda: ("epoch 1/2", "l1 0.5"))
        display.line("[not markup]")
    assert "merge" in stream.getvalue()
    assert "5 of 5 images" in stream.getvalue()
    assert "epoch 1/2" in stream.getvalue()
    assert "l1 0.5" in stream.getvalue()
    assert "[not markup]\n" in stream.getvalue()


@given(st.lists(st.text(st.characters(exclude_categories=("C", "Z"), include_characters=" "))))
def test_a_command_line_has_the_words_that_it_was_given(words: list[str]) -> None:
    assert shlex.split(shell_line(*words)) == words


@pytest.mark.parametrize(
    ("number", "words"), [(45, "45 s"), (720, "12 min"), (12_000, "3 h 20 min")]
)
def test_durations_in_words(number: float, words: str) -> None:
    assert format_duration(number) == words
