"""The SuperLink of a run, as far as it can be tested without one; tests/e2e has the rest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedkd import superlink
from fedkd.errors import MissingExtraError, RunError
from fedkd.superlink import SubmitError, SuperLink, last_words, settings


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield sleeper
    sleeper.kill()
    sleeper.wait()


@pytest.fixture
def link(tmp_path: Path, process: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[SuperLink]:
    monkeypatch.setattr(superlink, "_FLWR", (str(tmp_path / "flwr"),))
    monkeypatch.setattr(SuperLink, "wait_until_healthy", lambda link: None)
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)}
    started = SuperLink(tmp_path, environment, process, 1)
    yield started
    started.close()


def flwr(tmp_path: Path, script: str) -> None:
    """A command that takes a line of arguments, as fedkd.ahead does, and then does as the script says."""
    path = tmp_path / "flwr"
    path.write_text(f"#!/bin/sh\nread -r arguments\n{script}\n")
    path.chmod(0o755)


def ended(link: SuperLink) -> SuperLink:
    deadline = time.monotonic() + 10.0
    while link.is_streaming:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return link


# The environment of Flower and Ray.


def test_nothing_of_the_network_is_wanted() -> None:
    found = settings(Path("/tmp/x"), {})
    assert found["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"
    assert found["FLWR_TELEMETRY_ENABLED"] == found["RAY_USAGE_STATS_ENABLED"] == "0"
    assert found["FLWR_DISABLE_UPDATE_CHECK"] == "1"


def test_ray_starts_no_workers_that_flower_would_not_use() -> None:
    assert settings(Path("/tmp/x"), {})["RAY_prestart_worker_first_driver"] == "0"


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(superlink, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'fedkd\[simulation\]'"):
        superlink.check_flower_engine()


def test_a_proxy_is_passed_by_and_its_exceptions_stay() -> None:
    found = settings(Path("/tmp/x"), {"no_proxy": "intranet"})
    assert (found["NO_PROXY"], found["no_proxy"]) == ("127.0.0.1", "intranet,127.0.0.1")


def test_imports_go_as_here_in_the_same_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "path", ["", "/opt/mine", "/usr/lib/python311.zip", "relative"])
    path = settings(Path("/tmp/x"), {})["PYTHONPATH"].split(os.pathsep)
    assert path == [str(tmp_path), "/opt/mine", str(tmp_path / "relative")]


def test_scripts_of_this_environment_come_first() -> None:
    first, *rest = settings(Path("/tmp/x"), {"PATH": "/usr/bin"})["PATH"].split(os.pathsep)
    assert (first, rest) == (str(Path(sys.executable).parent), ["/usr/bin"])
    assert not settings(Path("/tmp/x"), {})["PATH"].endswith(os.pathsep)  # an empty entry means the working folder


def test_ray_s_files_go_with_the_run_unless_told_otherwise() -> None:
    assert settings(Path("/tmp/x"), {})["RAY_TMPDIR"] == "/tmp/x"
    assert "RAY_TMPDIR" not in settings(Path("/tmp/x"), {"RAY_TMPDIR": "/scratch"})


@pytest.mark.parametrize("length", [1, 100])
def test_the_folder_is_where_ray_s_sockets_fit(length: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = Path(tempfile.mkdtemp(dir="/tmp")) / ("x" * length)
    wanted.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(wanted))
    home = superlink._new_home()
    assert home.parent == (wanted if length == 1 else Path("/tmp"))
    assert list(wanted.iterdir()) == ([home] if length == 1 else [])
    for folder in (home, wanted, wanted.parent):
        folder.rmdir()


def test_no_folder_at_all_is_a_readable_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    with pytest.raises(RunError, match=r"no folder for Flower's files: .*; let \$TMPDIR name one"):
        superlink._new_home()


# Flower's command line.


def test_a_run_is_submitted_and_its_log_kept(link: SuperLink, tmp_path: Path) -> None:
    flwr(tmp_path, r"""printf '%s' "$arguments" > said; printf '\033[92mINFO \033[0m: started\n'; read -r never""")
    assert not link.is_streaming
    link.submit(tmp_path / "app", {"resume-from": '/a "b"'}, {"num-supernodes": 2})
    while "started" not in link.log():
        assert link.is_streaming  # it reads on until it is let go
    assert link.log() == "INFO : started\n"
    said = json.loads((tmp_path / "said").read_text())
    assert said[:3] == ["run", str(tmp_path / "app"), "fedkd"]
    assert {'resume-from="/a \\"b\\""', "num-supernodes=2", "--stream"} <= set(said)
    link.close()
    assert not link.is_streaming


def test_status_reads_flower_s_json(link: SuperLink, tmp_path: Path) -> None:
    flwr(tmp_path, """echo '{"runs": [{"status": "finished:failed", "status-details": "heartbeat lost"}]}'""")
    assert link.status() == ("finished:failed", "heartbeat lost")
    flwr(tmp_path, """echo '{"runs": [{"status": "running", "status-details": null}]}'""")
    assert link.status() == ("running", "")


def test_what_is_loaded_ahead_answers_the_next_question(link: SuperLink, tmp_path: Path) -> None:
    flwr(tmp_path, """echo '{"runs": [{"status": "running"}]}'""")
    link.get_ready()
    link.get_ready()  # one is enough
    (tmp_path / "flwr").unlink()
    assert link.status() == ("running", "")


def test_a_run_that_is_not_listed_yet_may_still_be(link: SuperLink, tmp_path: Path) -> None:
    listed = """case "$arguments" in '["list"'*) echo '{"runs": []}';; *)"""
    flwr(tmp_path, f"{listed} read -r never;; esac")
    link.submit(tmp_path, {}, {})
    assert link.status() == ("submitted", "")
    link.close()


def test_a_run_that_flower_does_not_take_is_told(link: SuperLink, tmp_path: Path) -> None:
    listed = """case "$arguments" in '["list"'*) echo '{"runs": []}';; *)"""
    flwr(tmp_path, rf"{listed} printf '\033[91mno such app\033[0m\n' >&2; exit 2;; esac")
    link.submit(tmp_path, {}, {})
    with pytest.raises(SubmitError, match=r"^`flwr run` failed: no such app$"):
        ended(link).status()


@pytest.mark.parametrize("answer", ["", "no json", "{}", "[]", '{"runs": []}'])
def test_an_answer_without_meaning_is_an_error(answer: str, link: SuperLink, tmp_path: Path) -> None:
    flwr(tmp_path, f"echo '{answer}'")
    with pytest.raises(RunError, match="`flwr list` gave no status"):
        link.status()


def test_flower_s_own_message_is_told_in_one_line(link: SuperLink, tmp_path: Path) -> None:
    flwr(tmp_path, r"""printf '%s' '{"success": false, "error-message": "Using SuperLink\n\nConnection refused."}'""")
    with pytest.raises(RunError, match=r"^`flwr list` gave no status: Using SuperLink Connection refused\.$"):
        link.status()


def test_flower_s_command_may_not_hang(link: SuperLink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(superlink, "COMMAND_TIMEOUT_S", 0.2)
    flwr(tmp_path, "exec sleep 30")
    with pytest.raises(RunError, match=r"`flwr list` gave no answer within 0\.2 s"):
        link.status()


def test_flower_s_command_may_be_missing(link: SuperLink, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(superlink, "_FLWR", (sys.executable, "-m", "fedkd.ahead", "no-such-script"))
    with pytest.raises(RunError, match=r"`flwr list` failed: no-such-script is not installed; install fedkd with pip"):
        link.status()


def test_without_flower_s_log_there_is_the_superlink_s(link: SuperLink, tmp_path: Path) -> None:
    (tmp_path / "superlink.log").write_text("\x1b[91mout of memory\x1b[0m\n")
    text = link.log()
    assert text.startswith("The run has no log.")
    assert text.endswith("out of memory\n")


def test_a_superlink_that_ended_is_noticed(process: subprocess.Popen[bytes], tmp_path: Path) -> None:
    link = SuperLink(tmp_path, {}, process, 1)
    link.check_alive()
    (tmp_path / "superlink.log").write_text("address in use\n")
    process.kill()
    process.wait()
    with pytest.raises(RunError, match="the SuperLink ended with code -9: address in use"):
        link.check_alive()
    with pytest.raises(RunError, match="address in use"):
        link.wait_until_healthy()


def test_a_superlink_that_never_answers_is_given_up(
    process: subprocess.Popen[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = SuperLink(tmp_path, {}, process, 1)
    monkeypatch.setattr(superlink, "START_TIMEOUT_S", 0.0)
    with pytest.raises(RunError, match="the SuperLink was not ready within 0 s: no log: No such file"):
        link.wait_until_healthy()


def test_last_words_are_the_last_lines_that_say_something() -> None:
    assert last_words("a\n\n" + "\n".join(map(str, range(9))) + "\n \n") == "\n".join(map(str, range(1, 9)))
    assert last_words("\n \n") == "the log is empty"
