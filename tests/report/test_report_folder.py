import json
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from fedkd.errors import ConfigError, FedKDError
from fedkd.files import write_atomic
from fedkd.report.folder import RunFolder, default_run_path, state_home_run_path

NOW = datetime(2026, 3, 4, 5, 6, 7)


def deny(monkeypatch, target, number=28):
    """Make `target` of os or Path fail with an errno; root ignores file modes, so tests cannot use those."""

    def fail(*args, **kwargs):
        raise OSError(number, os.strerror(number), str(args[0]))

    monkeypatch.setattr(*target, fail)


def test_create_makes_parents_and_the_inner_folders(tmp_path):
    folder = RunFolder.create(tmp_path / "a" / "b")
    assert sorted(p.name for p in folder.path.iterdir()) == ["checkpoints", "plots", "state"]
    assert folder.metrics_jsonl == tmp_path / "a" / "b" / "metrics.jsonl"
    assert folder.partition_npz.name == "partition.npz"


def test_path_becomes_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert RunFolder(Path("x")).path == tmp_path / "x"


def test_create_refuses_what_exists_and_says_what_to_do(tmp_path):
    with pytest.raises(ConfigError, match=r"exists already; choose another --out, remove it, or .* --resume"):
        RunFolder.create(tmp_path)


def test_create_under_a_file_names_path_and_cause(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file/run cannot be made: Not a directory"):
        RunFolder.create(tmp_path / "file" / "run")


def test_create_leaves_nothing_behind(tmp_path, monkeypatch):
    real = Path.mkdir

    def mkdir(self, *args, **kwargs):
        if self.name == "checkpoints":
            raise PermissionError(13, "Permission denied", str(self))
        real(self, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with pytest.raises(ConfigError, match="Permission denied"):
        RunFolder.create(tmp_path / "a" / "b" / "run")
    assert list(tmp_path.iterdir()) == []


def test_create_that_fails_removes_the_parents_it_made(tmp_path, monkeypatch):
    real = Path.mkdir

    def mkdir(self, *args, **kwargs):
        if self.name == "run":
            raise OSError(28, "No space left on device", str(self))
        real(self, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with pytest.raises(ConfigError, match="No space left"):
        RunFolder.create(tmp_path / "a" / "b" / "run")
    assert list(tmp_path.iterdir()) == []


def test_open_finds_a_run(run_folder):
    assert RunFolder.open(run_folder.path).path == run_folder.path


def test_open_says_what_is_there_instead(tmp_path, run_folder):
    with pytest.raises(ConfigError, match="does not exist"):
        RunFolder.open(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="is a file"):
        RunFolder.open(run_folder.config_toml)
    with pytest.raises(ConfigError, match=r"no run folder.*name one of the runs in it: run"):
        RunFolder.open(tmp_path)
    with pytest.raises(ConfigError, match="that `fedkd run` printed"):
        RunFolder.open(run_folder.plots)


def test_env_has_versions_machine_and_command(run_folder, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["fedkd", "run", "a b"])
    run_folder.write_env()
    env = json.loads(run_folder.env_json.read_text())
    assert list(env) == [
        "fedkd", "flwr", "torch", "numpy", "python", "platform", "cpu_count", "git_commit", "git_dirty", "command",
    ]  # fmt: skip
    assert env["command"] == "fedkd run 'a b'"
    assert env["numpy"]
    assert env["python"].startswith("3.")


def test_env_without_git_has_nulls(run_folder, monkeypatch):
    deny(monkeypatch, (subprocess, "run"), 2)
    run_folder.write_env()
    assert json.loads(run_folder.env_json.read_text())["git_commit"] is None


def test_default_run_path_counts_on_when_taken(tmp_path):
    first = default_run_path("edgefd", NOW, root=tmp_path)
    assert first == tmp_path / "20260304-050607-edgefd"
    first.mkdir()
    (tmp_path / "20260304-050607-edgefd-2").mkdir()
    assert default_run_path("edgefd", NOW, root=tmp_path).name == "20260304-050607-edgefd-3"


def test_default_run_path_is_one_plain_name():
    assert default_run_path("my.pkg:Preset/../x", NOW) == Path("runs") / "20260304-050607-my.pkg-Preset-..-x"


def test_state_home(monkeypatch, tmp_path):
    monkeypatch.setenv("FEDKD_RUNS", str(tmp_path / "mine"))
    assert state_home_run_path() == tmp_path / "mine"
    monkeypatch.setenv("FEDKD_RUNS", "")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    assert state_home_run_path() == tmp_path / "xdg" / "fedkd" / "runs"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert state_home_run_path() == tmp_path / ".local" / "state" / "fedkd" / "runs"


def test_write_atomic_replaces_and_leaves_no_other_file(tmp_path):
    path = tmp_path / "x.json"
    write_atomic(path, b"old")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_write_atomic_keeps_the_old_file_on_a_full_disk(tmp_path, monkeypatch, step):
    path = tmp_path / "x.json"
    write_atomic(path, b"old")
    deny(monkeypatch, (os, step))
    with pytest.raises(FedKDError, match=r"cannot write .*x\.json: No space left on device; free some space"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_write_atomic_into_a_missing_folder_names_the_path(tmp_path):
    with pytest.raises(FedKDError, match=r"nowhere/x: No such file or directory; check that the folder exists"):
        write_atomic(tmp_path / "nowhere" / "x", b"")


def test_importing_the_report_loads_neither_matplotlib_nor_torch():
    code = (
        "import sys, fedkd.report.html, fedkd.report.console, fedkd.report.summary, fedkd.report.plots\n"
        "print([m for m in ('matplotlib', 'torch', 'jinja2', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
