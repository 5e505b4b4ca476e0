import json

import pytest

from fedkd import metric_names as m
from fedkd.errors import DataError
from fedkd.report.events import Events
from fedkd.report.folder import RunFolder
from fedkd.report.summary import read_summary, summarise, write_summary

KEYS = """schema_version, preset, method, scheme, dataset, partition, skew, num_clients, rounds, seed, engine,
metric_name, metric_higher_is_better, metric_mean_final, metric_mean_best, metric_std_clients_final, metric_per_client,
acc_mean_final, acc_mean_best, acc_per_client, upload_bytes, download_bytes, accept_rate_own, accept_rate_foreign,
coverage, purity, rejected_shares, seconds_total, seconds_train, seconds_filter, seconds_aggregate, peak_rss_bytes"""


def summary_of(folder, **options):
    return summarise(folder, **{"engine": "local", "metric_name": "acc", "higher_is_better": True, **options})


@pytest.fixture
def small_run(tmp_path):
    """Two rounds by hand, so that every figure can be checked by head."""
    folder = RunFolder.create(tmp_path / "small")
    folder.config_toml.write_text('preset = "fedmd"\nrounds = 2\nseed = 5\nnum_clients = 2\n[data]\nname = "digits"\n')
    with Events(folder.metrics_jsonl, folder.timings_jsonl) as events:
        events.emit(-1, {m.SKEW: {"js_divergence": 1.0}, m.ACCEPT_RATE_OWN: 0.75, m.SETUP_UPLINK_BYTES: 1000})
        events.clock(-1, {m.SECONDS_FILTER: 0.5, m.SECONDS_ROUND: 1.0, m.PEAK_RSS_BYTES: 70})
        for round_id, mean in enumerate((0.25, 0.75, 0.5)):
            scores = [mean - 0.125, mean + 0.125]
            wire = {m.UPLINK_BYTES: 10, m.DOWNLINK_BYTES: 100, m.REJECTED: round_id}
            shares = {m.COVERAGE: 0.5 + 0.25 * round_id, m.PURITY: 1.0} if round_id < 2 else {}
            score = {m.SCORE_MEAN: mean, m.SCORE_PER_CLIENT: scores, m.ACC_MEAN: mean, m.ACC_PER_CLIENT: scores}
            events.emit(round_id, {**wire, **shares, **score})
            clocks = {m.SECONDS_ROUND: 2.0, m.SECONDS_TRAIN: 1.5, m.SECONDS_AGGREGATE: 0.25}
            events.clock(round_id, {**clocks, m.PEAK_RSS_BYTES: 90 - round_id})
    return folder


def test_keys_are_exactly_those_of_the_design(run_folder):
    assert list(summary_of(run_folder)) == [key.strip() for key in KEYS.replace("\n", " ").split(",")]


def test_every_figure_by_hand(small_run):
    assert summary_of(small_run) == {
        "schema_version": 1,
        "preset": "fedmd",
        "method": None,
        "scheme": None,
        "dataset": "digits",
        "partition": None,
        "skew": {"js_divergence": 1.0},
        "num_clients": 2,
        "rounds": 2,
        "seed": 5,
        "engine": "local",
        "metric_name": "acc",
        "metric_higher_is_better": True,
        "metric_mean_final": 0.5,
        "metric_mean_best": 0.75,
        "metric_std_clients_final": 0.125,
        "metric_per_client": [0.375, 0.625],
        "acc_mean_final": 0.5,
        "acc_mean_best": 0.75,
        "acc_per_client": [0.375, 0.625],
        "upload_bytes": 30,
        "download_bytes": 300,
        "accept_rate_own": 0.75,
        "accept_rate_foreign": None,
        "coverage": 0.625,
        "purity": 1.0,
        "rejected_shares": 3,
        "seconds_total": 7.0,
        "seconds_train": 4.5,
        "seconds_filter": 0.5,
        "seconds_aggregate": 0.75,
        "peak_rss_bytes": 90,
    }


def test_best_is_the_lowest_where_lower_is_better(small_run):
    summary = summary_of(small_run, metric_name="perplexity", higher_is_better=False)
    assert summary["metric_mean_best"] == 0.25
    assert summary["acc_mean_best"] == 0.75


def test_spread_leaves_out_clients_that_failed(make_run):
    folder = make_run(clients=3, rounds=1, done=1)
    with Events(folder.metrics_jsonl, folder.timings_jsonl) as events:
        events.emit(1, {m.SCORE_PER_CLIENT: [0.25, None, 0.75], m.SCORE_MEAN: 0.5})
    summary = summary_of(folder)
    assert summary["metric_std_clients_final"] == 0.25
    assert summary["metric_per_client"] == [0.25, None, 0.75]


def test_unfinished_run_has_no_final_figures(make_run):
    summary = summary_of(make_run(done=3))
    assert summary["metric_mean_final"] is None
    assert summary["metric_std_clients_final"] is None
    assert summary["acc_mean_best"] > 0


def test_cut_short_metrics_count_up_to_the_last_whole_line(make_run):
    folder = make_run()
    whole = folder.metrics_jsonl.read_bytes()
    folder.metrics_jsonl.write_bytes(whole[:-40])
    assert summary_of(folder)["acc_mean_final"] is None


def test_missing_timings_are_null(run_folder):
    folder = run_folder
    folder.timings_jsonl.unlink()
    summary = summary_of(folder)
    assert summary["seconds_total"] is None
    assert summary["peak_rss_bytes"] is None


def test_write_and_read_back(run_folder):
    assert read_summary(run_folder) is None
    summary = write_summary(run_folder, engine="local", metric_name="acc", higher_is_better=True)
    assert summary == summary_of(run_folder)
    assert read_summary(run_folder) == summary == json.loads(run_folder.summary_json.read_text())


@pytest.mark.parametrize(
    ("text", "words"), [("{", "cannot be read"), ("[]", "schema_version None"), ('{"schema_version": 9}', "9")]
)
def test_broken_summary_is_named(run_folder, text, words):
    run_folder.summary_json.write_text(text)
    with pytest.raises(DataError, match=words):
        read_summary(run_folder)
