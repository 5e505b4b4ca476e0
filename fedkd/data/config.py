"""Configuration of the data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from fedkd.checks import check_range
from fedkd.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which data set, where it lies, and how much of it is used.

    `max_train`, `max_test` and `validation` draw from fixed streams of their own, never from the experiment's seed:
    runs with different seeds see the same samples. Each draw keeps the share of every class.
    """

    paths: ClassVar[frozenset[str]] = frozenset({"root"})

    name: str = "digits"  # an entry of DATASETS, or package.module:function of your own
    root: str = ""  # folder or file that holds the data; not used by embedded data
    download: bool = False  # true: fetch what is missing under `root`; nothing is ever fetched otherwise
    max_train: int = 0  # training samples to use, at least one of each class; 0 uses all
    max_test: int = 0  # test samples to use, at least one of each class; 0 uses all
    validation: float = 0.0  # above 0: this share of the training data stands in for the test set; 0..1
    image_size: int = 0  # resize images to this width and height; 0 leaves them (folder, hub)
    length: int = 0  # tokens of a sequence, longer texts are cut; 0 takes 128 (shakespeare, gsm8k) or 48 (grammar)
    hub_name: str = ""  # the Hugging Face name, such as ylecun/mnist; "" reads parquet files under `root` (hub)
    image_column: str = ""  # "" finds the one column of images (hub)
    label_column: str = ""  # "" finds the one column of classes (hub)

    def __post_init__(self) -> None:
        check_range("max_train", self.max_train, low=0)
        check_range("max_test", self.max_test, low=0)
        check_range("validation", self.validation, low=0.0, below=1.0)
        check_range("image_size", self.image_size, low=0)
        check_range("length", self.length, low=0)
        for key, names in _ONLY.items():
            if getattr(self, key) and self.name not in names and ":" not in self.name:
                raise ConfigError(
                    f"is {getattr(self, key)!r}, but data.name is {self.name!r} and only {', '.join(names)} use it; "
                    "leave it out",
                    key=key,
                )


_ONLY: Mapping[str, tuple[str, ...]] = {  # a key that would be ignored is refused; code of your own may use any
    "image_size": ("folder", "hub"),
    "length": ("shakespeare", "gsm8k", "grammar"),
    "hub_name": ("hub",),
    "image_column": ("hub",),
    "label_column": ("hub",),
}
