"""Following event files that another process writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedkd import metric_names as m
from fedkd.report.events import Events
from fedkd.report.tail import Tail


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "metrics.jsonl", tmp_path / "timings.jsonl"


@pytest.fixture
def heard() -> list[tuple[int, str]]:
    return []


@pytest.fixture
def tail(files: tuple[Path, Path], heard: list[tuple[int, str]]) -> Tail:
    return Tail(*files, [lambda event: heard.append(name_of(event))])


def name_of(event: Any) -> tuple[int, str]:
    return event["round_id"], "numbers" if m.ACC_MEAN in event else "clocks"


def write_round(events: Events, round_id: int) -> None:
    events.emit(round_id, {m.ACC_MEAN: 0.5})
    events.clock(round_id, {m.SECONDS_ROUND: 0.1})


def test_nothing_is_told_before_the_files_are_there(tail: Tail, heard: list[tuple[int, str]]) -> None:
    tail.follow()
    assert heard == []


def test_each_event_is_told_once_numbers_before_clocks(
    files: tuple[Path, Path], tail: Tail, heard: list[tuple[int, str]]
) -> None:
    with Events(*files) as events:
        for round_id in range(-1, 3):
            write_round(events, round_id)
        tail.follow()
        tail.follow()
        write_round(events, 3)
        tail.follow()
    assert heard == [(round_id, what) for round_id in range(-1, 4) for what in ("numbers", "clocks")]


def test_it_tells_what_the_writer_tells_its_own_listeners(
    files: tuple[Path, Path], tail: Tail, heard: list[tuple[int, str]]
) -> None:
    direct: list[tuple[int, str]] = []
    with Events(*files, listeners=[lambda event: direct.append(name_of(event))]) as events:
        for round_id in range(3):
            write_round(events, round_id)
    tail.follow()
    assert heard == direct


def test_half_a_line_waits_for_its_other_half(
    files: tuple[Path, Path], tail: Tail, heard: list[tuple[int, str]]
) -> None:
    line = b'{"round_id": 0, "acc/mean": 0.5}\n'
    files[0].write_bytes(line[:9])
    tail.follow()
    assert heard == []
    files[0].write_bytes(line)
    tail.follow()
    assert heard == [(0, "numbers")]


def test_what_was_there_before_is_no_news(files: tuple[Path, Path]) -> None:
    heard: list[tuple[int, str]] = []
    with Events(*files) as events:
        write_round(events, 0)
        tail = Tail(*files, [lambda event: heard.append(name_of(event))])
        write_round(events, 1)
        tail.follow()
    assert heard == [(1, "numbers"), (1, "clocks")]


def test_a_file_that_is_cut_is_followed_from_its_new_end(
    files: tuple[Path, Path], tail: Tail, heard: list[tuple[int, str]]
) -> None:
    with Events(*files) as events:
        write_round(events, 0)
        position = events.position()
        write_round(events, 1)
        tail.follow()
        events.rewind(position)
        tail.follow()
        heard.clear()
        write_round(events, 1)
        tail.follow()
    assert heard == [(1, "numbers"), (1, "clocks")]
