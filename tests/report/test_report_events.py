import json
import math
import resource

import numpy as np
import pytest

from fedkd.errors import DataError, FedKDError, StateError
from fedkd.federation.emitter import Emitter
from fedkd.report.events import Events, History, plain, read_events


@pytest.fixture
def paths(tmp_path):
    return tmp_path / "metrics.jsonl", tmp_path / "timings.jsonl"


def test_events_are_an_emitter(paths):
    with Events(*paths) as events:
        emitter: Emitter = events
        emitter.emit(0, {"a": 1.0})
        assert emitter.position() == {"metrics": len('{"round_id": 0, "a": 1.0}\n'), "timings": 0}


def test_one_line_per_event_flushed_at_once(paths):
    with Events(*paths) as events:
        events.emit(-1, {"partition/skew": 1.0})
        events.emit(0, {"acc/mean": 0.5})
        events.clock(0, {"seconds/round": 2.0})
        assert paths[0].read_text() == '{"round_id": -1, "partition/skew": 1.0}\n{"round_id": 0, "acc/mean": 0.5}\n'
        assert paths[1].read_text() == '{"round_id": 0, "seconds/round": 2.0}\n'


def test_numpy_becomes_plain_and_non_finite_becomes_null(paths):
    values = {
        "int": np.int64(3),
        "float": np.float64(0.5),
        "bool": np.bool_(True),
        "array": np.array([[1.0, math.nan], [math.inf, -math.inf]]),
        "ids": np.arange(2, dtype=np.int32),
        "nested": {"a": [np.float32(0.25), None, (1, math.nan)]},
        "nan": math.nan,
    }
    with Events(*paths) as events:
        events.emit(np.int64(1), values)
    assert json.loads(paths[0].read_text()) == {
        "round_id": 1,
        "int": 3,
        "float": 0.5,
        "bool": True,
        "array": [[1.0, None], [None, None]],
        "ids": [0, 1],
        "nested": {"a": [0.25, None, [1, None]]},
        "nan": None,
    }


def test_what_json_cannot_hold_is_refused_by_name():
    with pytest.raises(TypeError, match="event 'x' holds a object"):
        plain(object(), name="x")


def test_rewind_drops_both_files_after_the_position(paths):
    with Events(*paths) as events:
        events.emit(0, {"a": 1})
        events.clock(0, {"t": 1})
        position = events.position()
        kept = [p.read_bytes() for p in paths]
        events.emit(1, {"a": 2})
        events.clock(1, {"t": 2})
    with Events(*paths) as events:  # a resumed run opens the files again
        events.rewind(position)
        assert [p.read_bytes() for p in paths] == kept
        events.emit(1, {"a": 3})
    assert [event["a"] for event in read_events(paths[0])] == [1, 3]


def test_rewind_to_nothing(paths):
    with Events(*paths) as events:
        events.emit(0, {"a": 1})
        events.rewind({"metrics": 0, "timings": 0})
    assert paths[0].read_bytes() == b""


@pytest.mark.parametrize(("position", "words"), [(99, "the checkpoint was made when it had 99"), (5, "no line ends")])
def test_rewind_to_a_wrong_place_changes_nothing(paths, position, words):
    with Events(*paths) as events:
        events.emit(0, {"a": 1})
        before = paths[0].read_bytes()
        with pytest.raises(StateError, match=words):
            events.rewind({"metrics": position, "timings": 0})
    assert paths[0].read_bytes() == before


def test_half_a_line_is_dropped_on_reading_and_on_opening(paths):
    paths[0].write_bytes(b'{"round_id": 0, "a": 1}\n{"round_id": 1, "a"')
    assert read_events(paths[0]) == [{"round_id": 0, "a": 1}]
    with Events(*paths) as events:
        events.emit(1, {"a": 2})
    assert [event["a"] for event in read_events(paths[0])] == [1, 2]


def test_broken_line_in_the_middle_is_named(paths):
    paths[0].write_bytes(b'{"round_id": 0}\n{"rou\n{"round_id": 1}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl, line 2 is no JSON"):
        read_events(paths[0])


@pytest.mark.parametrize("line", [b"[1]\n", b'{"a": 1}\n', b'{"round_id": "x"}\n'])
def test_line_that_is_no_event_is_named(paths, line):
    paths[0].write_bytes(line)
    with pytest.raises(DataError, match="line 1 is no event"):
        read_events(paths[0])


def test_missing_file_is_named(paths):
    with pytest.raises(DataError, match=r"metrics\.jsonl cannot be read: No such file"):
        read_events(paths[0])


def test_unwritable_file_is_named(tmp_path):
    with pytest.raises(FedKDError, match=r"cannot write .*metrics\.jsonl"):
        Events(tmp_path / "nowhere" / "metrics.jsonl", tmp_path / "timings.jsonl")


def test_line_that_does_not_fit_on_the_disk_leaves_no_half_of_it(paths):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Events(*paths) as events:
        events.emit(0, {"a": 1})
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (40, hard))
            with pytest.raises(FedKDError, match=r"cannot write .*metrics\.jsonl: File too large"):
                events.emit(1, {"a": 12345678901234567890})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert paths[0].read_bytes() == b'{"round_id": 0, "a": 1}\n'


def test_listeners_hear_every_event_as_written(paths):
    heard = []
    with Events(*paths, listeners=[heard.append]) as events:
        events.emit(0, {"a": np.float64(1)})
        events.clock(0, {"t": 2})
    assert heard == [{"round_id": 0, "a": 1.0}, {"round_id": 0, "t": 2}]


def test_history_by_name_and_round():
    events = [
        {"round_id": 1, "a": 3, "b": None},
        {"round_id": -1, "s": [1, None]},
        {"round_id": 0, "a": 1},
        {"round_id": 0, "a": 2},
    ]
    history = History(events)
    assert history.series("a") == [(0, 2), (1, 3)]  # the later of two wins, rounds in order
    assert history.last("a") == 3
    assert history.at("a", 0) == 2
    assert history.at("s", -1) == [1, None]
    assert history.series("b") == []
    assert history.last("b") is None
    assert history.at("a", 7) is None
    assert history.names() == ["a", "s"]
