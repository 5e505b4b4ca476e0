"""Codecs, row-wise combiners and server schemes."""

from __future__ import annotations

from collections.abc import Mapping

CODECS: Mapping[str, str] = {
    "float32": "fedkd.exchange.float_codecs:Float32",
    "float16": "fedkd.exchange.float_codecs:Float16",
    "int8": "fedkd.exchange.int8:Int8",
}

SCHEMES: Mapping[str, str] = {
    "mean": "fedkd.exchange.mean:MeanScheme",
    "fd": "fedkd.exchange.fd:LeaveOneOut",
    "dsfl": "fedkd.exchange.dsfl:DsFl",
    "selective_fd": "fedkd.exchange.selective_fd:SelectiveFd",
    "none": "fedkd.exchange.no_exchange:NoExchange",
}
