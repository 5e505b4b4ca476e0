"""Aliases that the whole package shares. Shape letters are those of the style guide: n, c, d, k, m, p."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Ids: TypeAlias = npt.NDArray[np.int64]
Mask: TypeAlias = npt.NDArray[np.bool_]
Scalar: TypeAlias = bool | int | float | str
Flat: TypeAlias = Mapping[str, Scalar]
Metrics: TypeAlias = dict[str, float]
