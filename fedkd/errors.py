"""Every error that fedkd raises on purpose. One base class, so that a caller can catch them all at once."""

from __future__ import annotations


class FedKDError(Exception):
    """Base of all fedkd errors; its text is meant for a person and says what to do."""


class ConfigError(FedKDError):
    """A configuration value, key or combination is wrong.

    `key` is the bare or flat key; the experiment adds the group and the origin (preset, file, command line).
    """

    def __init__(self, message: str, *, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


class DataError(FedKDError):
    """Data are missing, unreadable, non-finite or do not fit the experiment."""


class MissingExtraError(FedKDError):
    """An optional dependency is needed; the text names the extra that brings it."""


class BadReplyError(FedKDError):
    """A message from outside is malformed. Costs the sender one reply, never the round."""

    def __init__(self, reason: str, *, client_id: int | None = None) -> None:
        super().__init__(reason if client_id is None else f"client {client_id}: {reason}")
        self.reason = reason
        self.client_id = client_id


class StateError(FedKDError):
    """A client's or the coordinator's stored state is missing, truncated or not the one expected."""


class QuorumError(FedKDError):
    """Too few good replies came back for the round to count."""


class RunError(FedKDError):
    """A run could not start or ended without success; the text carries the cause."""
