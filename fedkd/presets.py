"""Named combinations of method, filter, scheme, codec and schedule. A preset is data: flat keys, one line of text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedkd.errors import ConfigError
from fedkd.lookup import nearest
from fedkd.types import Flat


@dataclass(frozen=True)
class Preset:
    """What the preset is, in one line, and the keys that it sets."""

    summary: str
    values: Flat


# Each step takes one private and one proxy mini-batch: a client that trains a whole epoch on its few classes forgets
# what it distilled.
_JOINT: Flat = {
    "method.name": "soft_targets",
    "method.order": "joint",
    "method.private_weight": 0.1,
    "schedule.private_steps": 20,
}

PRESETS: Mapping[str, Preset] = {
    "edgefd": Preset(
        "EdgeFD: each client filters the proxy by KMeans distance to its own data; the server averages",
        {**_JOINT, "filter.name": "kmeans", "scheme.name": "mean"},
    ),
    "selective_fd": Preset(
        "Selective-FD: each client filters by KuLSIF density ratio; the server averages and may drop ambiguous rows",
        {
            **_JOINT,
            "method.payload": "probs",
            "filter.name": "kulsif",
            "filter.own_sample_stage": False,
            "scheme.name": "selective_fd",
        },
    ),
    "fedmd_sfd": Preset(
        "no filter: the server averages what every client says about every sample (FedMD as compared in Selective-FD)",
        {**_JOINT, "method.payload": "probs", "filter.name": "accept_all", "scheme.name": "mean"},
    ),
    "dsfl": Preset(
        "DS-FL: probabilities, entropy reduction aggregation, a server model trained on the aggregate",
        {**_JOINT, "method.payload": "probs", "filter.name": "accept_all", "scheme.name": "dsfl"},
    ),
    "fd": Preset(
        "FD: per-class mean logits, each client regularised towards the mean of the others; no proxy set",
        {
            "method.name": "fd",
            "schedule.private_steps": 20,
            "schedule.clip_norm": 1.0,  # as in local_only: three of ten CNNs on MNIST (IID) died within 15 rounds
            "filter.name": "accept_all",
            "scheme.name": "fd",
            "proxy.name": "none",
        },
    ),
    "edgefd_views": Preset(
        "EdgeFD with a second opinion per row (the averaged model) and class-count weights per row and class",
        {"method.name": "ema_views", "filter.name": "kmeans", "scheme.name": "mean", "schedule.private_steps": 20},
    ),
    "local_only": Preset(
        "no exchange: every client trains on its own data; the floor",
        {
            "method.name": "soft_targets",
            "method.order": "private_then_distil",
            "schedule.private_steps": 20,
            # Without the proxy's gradient beside it, a few of ten CNNs on MNIST (two classes each, lr 0.05, momentum
            # 0.9) lost all their units in the first steps and stayed at ln 2 on their own training data.
            "schedule.clip_norm": 1.0,
            "filter.name": "accept_all",
            "scheme.name": "none",
            "proxy.name": "none",
        },
    ),
    "centralised": Preset(
        "one client holds all data; the ceiling",
        {
            "num_clients": 1,
            "partition.name": "iid",
            "method.name": "soft_targets",
            "method.order": "private_then_distil",
            "filter.name": "accept_all",
            "scheme.name": "none",
            "proxy.name": "none",
        },
    ),
}


def preset_values(name: str) -> Flat:
    """The flat keys of a preset; ConfigError with the nearest right name where there is none."""
    if name not in PRESETS:
        raise ConfigError(f"preset is {name!r}{nearest(name, PRESETS)} Presets: {', '.join(PRESETS)}", key="preset")
    return {"preset": name, **PRESETS[name].values}
