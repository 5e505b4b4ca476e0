"""Other people's code on the same work. Nothing of it is here: a runner imports it from a checkout of the user's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fedkd.errors import ConfigError
from fedkd.lookup import nearest


@dataclass(frozen=True, kw_only=True)
class Peer:
    """What the benchmark knows about one.

    Attributes:
        method: cases of this method are the ones that it can be given.
        proof: a file that its checkout has.
        runner: the module that a child process runs.
    """

    method: str
    proof: str
    runner: str
    env: Mapping[str, str] = field(default_factory=dict)


PEERS: Mapping[str, Peer] = {
    "htfllib": Peer(
        method="fd",
        proof="system/flcore/servers/serverfd.py",
        runner="fedkd.bench.engine.peers.htfllib",
        env={"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"},  # it reads the models that it has written itself
    ),
    "blazefl": Peer(
        method="soft_targets",
        proof="examples/step-by-step-dsfl/algorithm/dsfl.py",
        runner="fedkd.bench.engine.peers.blazefl",
    ),
}


def find_peer(name: str, path: Path) -> Peer:
    """The peer of that name; ConfigError where there is none, or `path` is no checkout of it."""
    if name not in PEERS:
        raise ConfigError(f"peer {name!r} is unknown{nearest(name, PEERS)} Peers: {', '.join(PEERS)}", key="peer")
    peer = PEERS[name]
    if not (path / peer.proof).is_file():
        raise ConfigError(
            f"peer {name}: {path} is no checkout of it, for it has no {peer.proof}; clone its repository and give the "
            "path of the clone",
            key="peer",
        )
    return peer
