"""`model.options`: keyword arguments for a library's class or a builder, as one JSON object."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from fedkd.errors import ConfigError
from fedkd.lookup import nearest

FETCHES = frozenset(  # arguments by which libraries load weights on their own, some of them from a hub or with pickle
    {
        "weights",
        "weights_backbone",
        "pretrained",
        "pretrained_backbone",
        "pretrained_cfg",
        "pretrained_cfg_overlay",
        "checkpoint_path",
        "use_pretrained_backbone",
    }
)


def parse_options(text: str) -> dict[str, Any]:
    """The keyword arguments that `text` holds; none for "".

    Raises:
        ConfigError: no JSON object, or an argument that would fetch weights.
    """
    if not text.strip():
        return {}
    example = """a JSON object such as '{"n_embd": 32, "n_layer": 1}'"""
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"is {text!r}, expected {example}: {error}; correct the text", key="options") from error
    if not isinstance(values, dict):
        raise ConfigError(f"is {text!r}, expected {example}; put names and values in braces", key="options")
    for name in values:
        if name in FETCHES:
            raise ConfigError(
                f"holds {name!r}, by which a library loads weights on its own; name them in `weights` instead",
                key="options",
            )
    return values


def in_one_line(error: Exception) -> str:
    """What a library says was wrong, without its line breaks and not endless."""
    return " ".join(str(error).split())[:400]


def check_known(options: Mapping[str, Any], known: Collection[str], *, name: str, inside: str = "") -> None:
    """ConfigError for the first option that the model `name` does not know; suggests the nearest one.

    `inside` names the nested group of options, if any.
    """
    for option in options:
        if option not in known:
            listed = ", ".join(sorted(known)) or "none"
            raise ConfigError(
                f"holds {f'{inside}.{option}' if inside else option!r}, which model {name!r} does not know"
                f"{nearest(option, known)} Known: {listed}",
                key="options",
            )


def check_whole(name: str, value: Any, *, low: int = 1) -> None:
    """ConfigError unless the option `name` is a whole number of at least `low`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ConfigError(
            f"holds {name} = {value!r}, expected a whole number of at least {low}; correct it", key="options"
        )
