"""Local trainers, one file or folder each."""

from __future__ import annotations

from collections.abc import Mapping

METHODS: Mapping[str, str] = {
    "soft_targets": "fedkd.methods.soft_targets:SoftTargets",
    "fd": "fedkd.methods.fd:FederatedDistillation",
    "ema_views": "fedkd.methods.ema_views:EmaViews",
    "wad": "fedkd.methods.wad.trainer:WAD",
    "bpkd": "fedkd.methods.bpkd.trainer:BPKD",
    "adaspec": "fedkd.methods.adaspec.trainer:AdaSpec",
    "mst_distill": "fedkd.methods.mst_distill.trainer:MSTDistill",
    "skd_cag": "fedkd.methods.skd_cag.trainer:SKDCAG",
}
