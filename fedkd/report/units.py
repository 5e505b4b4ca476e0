"""Numbers as people read them; None (does not apply) is a dash."""

from __future__ import annotations

MISSING = "–"


def format_bytes(value: float | None) -> str:
    """Decimal units, three digits: `12.3 kB`."""
    if value is None:
        return MISSING
    amount, units = float(value), ("B", "kB", "MB", "GB", "TB", "PB")
    unit = 0
    while unit < len(units) - 1 and round(amount, 1 if amount < 99.95 else 0) >= 1000:
        amount, unit = amount / 1000, unit + 1
    if unit == 0:
        return f"{amount:.0f} B"
    return (
        f"{amount:.2f} {units[unit]}"
        if amount < 9.995
        else f"{amount:.1f} {units[unit]}"
        if amount < 99.95
        else f"{amount:.0f} {units[unit]}"
    )


def format_seconds(value: float | None) -> str:
    """`2.1 s`, `3.4 min`, `5.6 h`."""
    if value is None:
        return MISSING
    if value < 0.95:
        return f"{value * 1000:.0f} ms"
    if value < 99.95:
        return f"{value:.1f} s"
    if value < 100 * 60:
        return f"{value / 60:.1f} min"
    return f"{value / 3600:.1f} h"


def format_share(value: float | None) -> str:
    """A share 0..1 as per cent: `31%`, and `3.1%` below ten."""
    if value is None:
        return MISSING
    return f"{value:.1%}" if 0 < abs(value) < 0.0995 else f"{value:.0%}"


def name_of_metric(metric: str | None) -> str:
    """A metric's name in words."""
    return {"acc": "accuracy", None: "score"}.get(metric, str(metric))


def format_figure(value: float | None) -> str:
    """A score or accuracy with three decimals."""
    return MISSING if value is None else f"{value:.3f}" if abs(value) < 1000 else f"{value:.4g}"
