"""Data sets, partitions, the proxy set and the roles of a client's data."""

from __future__ import annotations

from collections.abc import Mapping

DATASETS: Mapping[str, str] = {
    "digits": "fedkd.data.digits:load_digits",
    "digit_halves": "fedkd.data.halves:load_digit_halves",
    "cifar10_halves": "fedkd.data.halves:load_cifar10_halves",
    "mnist": "fedkd.data.mnist:load_mnist",
    "fashion_mnist": "fedkd.data.mnist:load_fashion_mnist",
    "cifar10": "fedkd.data.cifar:load_cifar10",
    "camvid": "fedkd.data.camvid:load_camvid",
    "figures": "fedkd.data.figures:load_figures",
    "shakespeare": "fedkd.data.text:load_shakespeare",
    "gsm8k": "fedkd.data.text:load_gsm8k",
    "grammar": "fedkd.data.grammar:load_grammar",
    "prompted_shapes": "fedkd.data.shapes:load_prompted_shapes",
    "prompted_archives": "fedkd.data.shapes:load_prompted_archives",
    "prompted_noise": "fedkd.data.shapes:load_prompted_noise",
    "folder": "fedkd.data.folder:load_folder",
    "npz": "fedkd.data.npz:load_npz",
    "hub": "fedkd.data.hub:load_hub",
}

PARTITIONS: Mapping[str, str] = {
    "strong": "fedkd.data.partitions.labels:Strong",
    "weak": "fedkd.data.partitions.labels:Weak",
    "iid": "fedkd.data.partitions.sizes:Iid",
    "dirichlet": "fedkd.data.partitions.labels:Dirichlet",
    "shards": "fedkd.data.partitions.labels:Shards",
    "quantity": "fedkd.data.partitions.sizes:Quantity",
    "feature": "fedkd.data.partitions.feature:Feature",
    "local": "fedkd.data.partitions.local:Local",
}
