import pytest

from fedkd.report.units import format_bytes, format_figure, format_seconds, format_share, name_of_metric


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"), (0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (12_340, "12.3 kB"), (99_960, "100 kB"),
        (999_400, "999 kB"), (999_600, "1.00 MB"), (2_260_000, "2.26 MB"), (5e15, "5.00 PB"), (5e19, "50000 PB"),
    ],
)  # fmt: skip
def test_bytes(value, text):
    assert format_bytes(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (0.0123, "12 ms"), (2.06, "2.1 s"), (99.97, "1.7 min"), (7200, "2.0 h")]
)
def test_seconds(value, text):
    assert format_seconds(value) == text


@pytest.mark.parametrize(("value", "text"), [(None, "–"), (0, "0%"), (0.0312, "3.1%"), (0.0996, "10%"), (1, "100%")])
def test_shares(value, text):
    assert format_share(value) == text


def test_figures_and_names():
    assert [format_figure(v) for v in (None, 0.8421, 12345.6)] == ["–", "0.842", "1.235e+04"]
    assert [name_of_metric(n) for n in ("acc", None, "miou")] == ["accuracy", "score", "miou"]
