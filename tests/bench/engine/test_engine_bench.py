"""`fedkd bench engine`: lines, ratios and words by hand; small runs in real processes, peers from fake checkouts."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fedkd.bench.engine import measure as module
from fedkd.bench.engine.measure import Entry, Settings, entries_of, measure
from fedkd.bench.engine.peers import PEERS
from fedkd.bench.engine.peers.shared import Headed, peer_module, peer_work
from fedkd.bench.engine.reading import Reading
from fedkd.cli import app
from fedkd.errors import ConfigError, FedKDError
from tests.bench.engine import fakes

SMALL = ("num_clients=2", "data.max_train=80", "data.max_test=20", "proxy.max_samples=24")
SMALL_WA = SMALL[:3]


def reading(cpu_s: list[float], **more: Any) -> Reading:
    common: dict[str, Any] = {
        "wall_s": [2 * each for each in cpu_s],
        "upload_bytes": [7] * len(cpu_s),
        "download_bytes": None,
        "peak_rss_bytes": 10,
        "acc": 0.5,
        "clients": 4,
        "rows_trained": 100,
        "rows_predicted": 0,
        "flops": 8e9,
        "bare_cpu_s": [1.0] * len(cpu_s),
        "gemm_flops_per_s": 40e9,
        "notes": [],
    }
    return Reading(cpu_s=cpu_s, **{**common, **more})


@pytest.fixture
def canned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two repeats that were measured before: fedkd twice as fast in the second, the peer with half of the rows."""
    repeats = {"fedkd": iter([[9, 4, 4, 4], [9, 2, 1, 3]]), "htfllib": iter([[9, 8, 8, 8], [9, 8, 8, 8]])}

    def read(entry: Entry) -> Reading:
        more = {"rows_trained": 50, "notes": ["half"], "upload_bytes": None} if entry.system == "htfllib" else {}
        return reading([float(each) for each in next(repeats[entry.system])], **more)

    monkeypatch.setattr(Entry, "read", read)


@pytest.fixture
def htfllib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout whose one dependency is installed."""
    (tmp_path / "installed").mkdir()
    (tmp_path / "installed" / "fake_dependency.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path / "installed")
    return fakes.htfllib(tmp_path / "HtFLlib")


@pytest.mark.usefixtures("canned")
def test_figures_and_ratios_by_hand(htfllib: Path) -> None:
    found = measure(Settings(cases=("wa_mlp",), rounds=4, repeats=2, peers=[("htfllib", htfllib)]))
    ours, theirs = found["cases"]
    assert ours["cpu_s_repeats"] == [4.0, 2.0]
    assert (ours["cpu_s"], ours["wall_s"], ours["bare_cpu_s"]) == (3.0, 6.0, 1.0)
    assert ours["overhead_ms"] == 1000 * ((4 - 1) / 4 + (2 - 1) / 4) / 2
    assert ours["updates_per_s"] == (4 / 8 + 4 / 4) / 2
    assert ours["gflops_per_s"] == (8 / 4 + 8 / 2) / 2
    assert ours["gemm_share"] == pytest.approx(3 / 40)
    assert (ours["upload_bytes"], theirs["upload_bytes"], ours["download_bytes"]) == (7, None, None)
    assert found["ratios"] == [
        {
            "case": "wa_mlp",
            "system": "htfllib",
            "variant": "",
            "cpu": 3.0,
            "cpu_low": 2.0,
            "cpu_high": 4.0,
            "rows_trained": 0.5,
            "acc": 0.5,
            "acc_fedkd": 0.5,
        }
    ]
    assert found["command"] == "fedkd bench engine --json --repeats 2 --rounds 4 --case wa_mlp --peer htfllib PATH"
    json.dumps(found)


@pytest.mark.usefixtures("canned")
def test_the_table_shows_systems_side_by_side(htfllib: Path) -> None:
    options = ["--case", "wa_mlp", "--repeats", "2", "--rounds", "4", "--peer", "htfllib", str(htfllib)]
    printed = CliRunner().invoke(app, ["bench", "engine", *options])
    assert printed.exit_code == 0, printed.output
    assert "wa_mlp: htfllib takes 3.00x the CPU of fedkd in a round on 50% of the rows" in printed.output
    assert "htfllib: half" in printed.output
    assert "4 rounds, medians of 2 interleaved repeats, one thread" in printed.output


def test_lines_stand_case_by_case(htfllib: Path, tmp_path: Path) -> None:
    blazefl = fakes.blazefl(tmp_path / "BlazeFL")
    settings = Settings(
        cases=("wa_mlp", "wb_cnn"),
        config=("schedule.lr=0.02",),
        variants=("checkpoint.every=1 seed=3",),
        peers=[("htfllib", htfllib), ("blazefl", blazefl)],
    )
    entries = entries_of(settings)
    assert [(entry.case, entry.label) for entry in entries] == [
        ("wa_mlp", "fedkd"),
        ("wa_mlp", "fedkd checkpoint.every=1 seed=3"),
        ("wa_mlp", "htfllib"),
        ("wb_cnn", "fedkd"),
        ("wb_cnn", "fedkd checkpoint.every=1 seed=3"),
        ("wb_cnn", "blazefl"),
    ]
    assert entries[1].config == {"schedule.lr": 0.02, "checkpoint.every": 1, "seed": 3, "rounds": 5}
    assert entries[2].config == {"schedule.lr": 0.02, "rounds": 5}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"cases": ("wa_mpl",)}, "case 'wa_mpl' is unknown; did you mean 'wa_mlp'"),
        ({"config": ("nothing",)}, "'nothing' is no key=value pair"),
        ({"config": ("rounds=3",)}, "-c sets rounds; use --rounds"),
        ({"variants": ("rounds=3",)}, "--with sets rounds; use --rounds"),
        ({"variants": (" ",)}, "--with is ' ', expected key=value pairs"),
        ({"variants": ("schedule.rate=3",)}, "schedule.rate"),
        ({"peers": [("htflib", Path())]}, "peer 'htflib' is unknown; did you mean 'htfllib'"),
        (
            {"peers": [("blazefl", Path("nowhere"))]},
            "nowhere is no checkout of it, for it has no examples/step-by-step",
        ),
    ],
)
def test_bad_input_gives_one_clear_error_before_anything_runs(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        measure(Settings(**given))


def test_a_peer_without_a_case_of_its_own_is_refused(htfllib: Path) -> None:
    with pytest.raises(ConfigError, match=r"peer htfllib does the work of none of the cases wb_mlp; add .*wa_mlp"):
        entries_of(Settings(cases=("wb_mlp",), peers=[("htfllib", htfllib)]))


def test_a_missing_package_of_a_peer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    system = fakes.htfllib(tmp_path / "HtFLlib") / "system"
    with pytest.raises(
        FedKDError, match=r"HtFLlib needs 'fake_dependency', which is not installed here; run: pip inst"
    ):
        peer_module("flcore.servers.serverfd", system, peer="HtFLlib")
    with pytest.raises(FedKDError, match=r"the checkout has no module 'flcore.servers.other'"):
        peer_module("flcore.servers.other", system, peer="HtFLlib")
    (system / "later.py").write_text("def f[T](x: T): ...\nx = (")
    with pytest.raises(FedKDError, match=r"later.py:\d is no Python .*the Python that HtFLlib asks for"):
        peer_module("later", system, peer="HtFLlib")


@pytest.mark.parametrize(
    "config", [{"schedule.momentum": 0.9}, {"schedule.optimizer": "adam"}, {"model.name": "cnn,mlp"}]
)
def test_what_peers_cannot_do_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"plain SGD steps|one model"):
        peer_work({"case": "wa_mlp", "config": config}, "HtFLlib")


def test_a_headed_model_needs_a_linear_head() -> None:
    from torch import nn

    assert Headed(nn.Sequential(nn.ReLU(), nn.Linear(3, 2))).fc.in_features == 3
    with pytest.raises(ConfigError, match="the model ends in ReLU"):
        Headed(nn.Sequential(nn.ReLU()))


def run_small(case: str, config: tuple[str, ...], *more: str) -> dict[str, Any]:
    """The command's answer, with one repeat of two rounds."""
    options = ["--json", "--repeats", "1", "--rounds", "2", "--case", case, *more]
    printed = CliRunner().invoke(
        app, ["bench", "engine", *options, *(word for pair in config for word in ("-c", pair))]
    )
    assert printed.exit_code == 0, (printed.output, printed.exception)
    found: dict[str, Any] = json.loads(printed.stdout)
    return found


def test_htfllib_is_driven_beside_fedkd_in_processes_of_their_own(htfllib: Path) -> None:
    config = (*SMALL_WA, "schedule.private_batch=32")
    found = run_small("wa_mlp", config, "--peer", "htfllib", str(htfllib))
    ours, theirs = found["cases"]
    assert (ours["rows_trained"], theirs["rows_trained"]) == (2 * 40, 2 * 32)
    assert found["ratios"][0]["cpu"] > 0
    assert any("32 of 40 rows are trained on" in note for note in theirs["notes"])
    for each in (ours, theirs):
        assert 0.0 <= each["acc"] <= 1.0
        assert len(each["readings"][0]["cpu_s"]) == 2
        assert min(each["cpu_s"], each["wall_s"], each["bare_cpu_s"], each["gflops_per_s"]) > 0
        assert each["peak_rss_bytes"] > 10**7
    assert (ours["upload_bytes"], ours["download_bytes"]) == (2 * 10 * (4 + 40), 2 * 10 * (4 + 40))


def test_blazefl_is_driven_beside_fedkd_in_processes_of_their_own(tmp_path: Path) -> None:
    found = run_small("wb_mlp", SMALL, "--peer", "blazefl", str(fakes.blazefl(tmp_path / "BlazeFL")))
    ours, theirs = found["cases"]
    for each in (ours, theirs):
        assert each["rows_trained"] == 2 * (40 + 24)
        assert each["rows_predicted"] == 2 * 24
        assert len(each["readings"][0]["cpu_s"]) == 2
        assert each["cpu_s"] > 0
    assert ours["upload_bytes"] == 2 * 24 * (4 + 40)
    assert any("not loaded" in note for note in theirs["notes"]) == (sys.version_info < (3, 14))


def test_a_round_that_clients_failed_in_is_no_measurement() -> None:
    config = {"num_clients": 2, "data.max_train": 80, "data.max_test": 20, "rounds": 2, "schedule.lr": 1e30}
    with pytest.raises(FedKDError, match=r"wa_mlp by fedkd: .*good replies"):
        Entry(case="wa_mlp", system="fedkd", config=config).read()


def test_every_peer_names_a_runner_that_is_there() -> None:
    for name, peer in PEERS.items():
        assert importlib.util.find_spec(peer.runner), name
    assert module.OURS not in PEERS
