"""Sinks take in what the emitter says."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fedkd.errors import ConfigError, MissingExtraError
from fedkd.report.folder import RunFolder
from fedkd.report.sinks import open_sinks
from fedkd.report.sinks.scalars import BY_CLIENT_UP_TO, scalars

EVENTS: tuple[Mapping[str, Any], ...] = (
    {"round_id": -1, "proxy/samples": 100, "partition/class_counts": [[1, 2], [3, 4]]},
    {"round_id": 0, "score/mean": 0.25, "score/per_client": [0.2, None], "score/name": "miou"},
    {"round_id": 1, "score/mean": 0.5, "score/per_client": [0.4, 0.6]},
)


def test_numbers_and_short_lists_by_client_can_be_drawn() -> None:
    assert scalars(EVENTS[0]) == {"proxy/samples": 100.0}
    assert scalars(EVENTS[1]) == {"score/mean": 0.25, "score/per_client/0": 0.2}
    assert scalars({"round_id": 0, "score/per_client": [0.5] * (BY_CLIENT_UP_TO + 1)}) == {}


def test_tensorboard_files_hold_the_numbers(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    with open_sinks(["tensorboard"], folder, {"rounds": 2}) as (sink,):
        for event in EVENTS:
            sink(event)
    (written,) = (folder.path / "tensorboard").iterdir()
    found = [
        (event.step, value.tag, value.simple_value) for event in events_in(written) for value in event.summary.value
    ]
    scalars_only = [(step, tag, value) for step, tag, value in found if not tag.startswith("config")]
    assert (1, "score/mean", 0.5) in scalars_only
    assert (-1, "proxy/samples", 100.0) in scalars_only
    assert {tag for _, tag, _ in scalars_only} == {
        "proxy/samples",
        "score/mean",
        "score/per_client/0",
        "score/per_client/1",
    }


def events_in(path: Path) -> list[Any]:
    """The protocol buffers of an event file: length, checksum, record, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    data, at, found = path.read_bytes(), 0, []
    while at < len(data):
        size = int.from_bytes(data[at : at + 8], "little")
        event = Event()
        event.ParseFromString(data[at + 12 : at + 12 + size])
        found.append(event)
        at += 16 + size
    return found


def test_trackers_get_steps_that_only_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module with W&B's interface, since the real one wants an account or starts processes of its own."""
    (tmp_path / "trackio.py").write_text(
        "import json\nlines = []\n"
        "def init(project, name, config): lines.append(['init', project, name, config])\n"
        "def log(values, step): lines.append(['log', step, values])\n"
        "import pathlib\n"
        "def finish(): lines.append(['finish']); pathlib.Path('said.json').write_text(json.dumps(lines))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    folder = RunFolder.create(tmp_path / "run")
    with open_sinks(["trackio"], folder, {"rounds": 2}) as (sink,):
        for event in EVENTS:
            sink(event)
    said = json.loads(Path("said.json").read_text())
    assert said[0] == ["init", "fedkd", "run", {"rounds": 2}]
    assert [line[1] for line in said[1:-1]] == [0, 1, 2]
    assert said[-1] == ["finish"]


def test_what_cannot_be_opened_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder.create(tmp_path / "run")
    with pytest.raises(ConfigError, match="tensorbord"), open_sinks(["tensorbord"], folder, {}):
        pass
    with pytest.raises(ConfigError, match="each stands once"), open_sinks(["wandb", "wandb"], folder, {}):
        pass
    monkeypatch.setitem(__import__("sys").modules, "tensorboardX", None)
    with pytest.raises(MissingExtraError, match=r"fedkd\[tracking\]"), open_sinks(["tensorboard"], folder, {}):
        pass
