"""Models of transformers by model type, such as `transformers/gpt2`; the task's head picks the class."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from torch import nn

from fedkd.errors import ConfigError
from fedkd.extras import need
from fedkd.lookup import nearest
from fedkd.models.config import ModelConfig
from fedkd.models.images import require_images
from fedkd.models.options import check_known, in_one_line
from fedkd.models.spec import ModelSpec
from fedkd.models.weights import refuse_other

_AUTO: Mapping[str, str] = {
    "classification": "AutoModelForImageClassification",
    "segmentation": "AutoModelForSemanticSegmentation",
    "language": "AutoModelForCausalLM",
}
_ENCODERS: Mapping[str, str] = {  # towers of CLIP on their own: with the projection into the common space
    "clip_vision_model": "CLIPVisionModelWithProjection",
    "clip_text_model": "CLIPTextModelWithProjection",
}
_EXTRAS: Mapping[str, str] = {"image_text": "vlm", "diffusion": "diffusion"}
_SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")


def build(name: str, config: ModelConfig, spec: ModelSpec) -> nn.Module:
    """A freshly initialised model; `model.options` are the arguments of its configuration.

    Classes by head: classification of images, or of tokens; semantic segmentation; causal language model; any other
    head: the bare model, CLIP's towers with their projection. `num_labels`, `vocab_size`, `image_size` and
    `num_channels` follow the data where they are not given.

    Raises:
        ConfigError: no such model type (the nearest right one is named), an option that it does not know, a vocabulary
            of another size than the data's, or a type without the task's head.
        MissingExtraError: transformers is not installed.
    """
    library = _library(name, spec)
    kind = _kind(library, name)
    options = config.arguments
    _check_options(options, kind, name=name)
    _check_vocabulary(options, spec, name=name)
    wanted = _with_data(options, kind, spec)
    try:
        made = kind(**wanted)
        if spec.head in ("language", "classification"):
            _drop_foreign_tokens(made, options)
        cls = _class(library, made, spec, name=name)
        # Auto classes build through from_config, model classes by their constructor.
        model: nn.Module = cls.from_config(made) if cls.__name__.startswith("Auto") else cls(made)
    except ConfigError:
        raise
    except Exception as error:  # what a library raises for wrong arguments is its own affair
        raise ConfigError(f"do not fit {name!r}: {in_one_line(error)}; see {kind.__name__}", key="options") from error
    return model


def load(name: str, config: ModelConfig, spec: ModelSpec) -> nn.Module:
    """The model that a folder in Hugging Face format (or, with `download`, the hub) holds, options put over its own.

    Raises:
        ConfigError: it cannot be read, or is a checkpoint of another architecture.
        MissingExtraError: transformers is not installed.
    """
    library = _library(name, spec)
    kind = _kind(library, name)
    options = config.arguments
    _check_options(options, kind, name=name)
    where: dict[str, Any] = {"local_files_only": not config.download, "trust_remote_code": False}
    try:
        with _no_progress_bar(library):
            found = library.AutoConfig.from_pretrained(config.weights, **where, **options)
            if found.model_type == kind.model_type:
                model, report = _class(library, found, spec, name=name).from_pretrained(
                    config.weights,
                    config=found,
                    use_safetensors=True,
                    dtype=options.get("dtype", "float32"),
                    ignore_mismatched_sizes=True,  # they are refused below, by name
                    output_loading_info=True,
                    **where,
                )
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"is {config.weights!r}, which cannot be loaded as {name!r}: {in_one_line(error)}; give a folder that "
            "save_pretrained wrote",
            key="weights",
        ) from error
    if found.model_type != kind.model_type:
        raise ConfigError(
            f"is {config.weights!r}, which is a checkpoint of another architecture: of type {found.model_type!r}, but "
            f"name is {name!r}; set it to transformers/{found.model_type}",
            key="weights",
        )
    refuse_other(
        config.weights,
        name=name,
        missing=sorted(report["missing_keys"]),
        unexpected=sorted(report["unexpected_keys"]),
        misshapen=sorted(
            f"{key} is {tuple(have)}, expected {tuple(need_)}" for key, have, need_ in report["mismatched_keys"]
        ),
    )
    loaded: nn.Module = model
    return loaded


def _library(name: str, spec: ModelSpec) -> ModuleType:
    return need("transformers", extra=_EXTRAS.get(spec.head, "llm"), what=f"model {name!r}")


def _kind(library: ModuleType, name: str) -> Any:
    """The configuration class of the model type."""
    model_type = name.partition("/")[2]
    known = library.CONFIG_MAPPING
    if model_type not in known:
        raise ConfigError(
            f"is {name!r}, which is no model type of its library{nearest(model_type, known.keys())}", key="name"
        )
    return known[model_type]


def _class(library: ModuleType, made: Any, spec: ModelSpec, *, name: str) -> Any:
    """The class of the model for the task's head."""
    if spec.head not in _AUTO:
        return getattr(library, _ENCODERS.get(made.model_type, "AutoModel"))
    auto = _AUTO[spec.head]
    if spec.head == "classification" and spec.takes_tokens:
        auto = "AutoModelForSequenceClassification"
    elif spec.head != "language":
        require_images(name, spec)
    cls = getattr(library, auto)
    if type(made) not in cls._model_mapping:
        raise ConfigError(f"is {name!r}, for which transformers has no {auto}; choose another model type", key="name")
    return cls


def _known(kind: Any) -> set[str]:
    """Names that a configuration class takes."""
    return {"num_labels", *kind.attribute_map, *(field.name for field in dataclasses.fields(kind))}


def _check_options(options: Mapping[str, Any], kind: Any, *, name: str) -> None:
    check_known(options, _known(kind), name=name)
    for group, sub in kind.sub_configs.items():
        nested = options.get(group)
        if isinstance(nested, Mapping) and dataclasses.is_dataclass(sub):
            check_known(nested, _known(sub), name=name, inside=group)


def _check_vocabulary(options: Mapping[str, Any], spec: ModelSpec, *, name: str) -> None:
    size = spec.num_outputs if spec.head == "language" else spec.vocab_size
    given = options.get("vocab_size", size)
    if size and given != size:
        raise ConfigError(
            f"holds vocab_size = {given!r}, but the data have {size} tokens (mismatched vocabularies): rows of "
            f"{name!r} would not line up with those of others; leave it out or prepare the data with its vocabulary",
            key="options",
        )


def _with_data(options: Mapping[str, Any], kind: Any, spec: ModelSpec) -> dict[str, Any]:
    """The options, and what follows the data where they say nothing."""
    known = _known(kind)
    wanted: dict[str, Any] = {}
    if spec.head in ("classification", "segmentation"):
        wanted["num_labels"] = spec.num_outputs
    vocabulary = spec.num_outputs if spec.head == "language" else spec.vocab_size
    if vocabulary:
        wanted["vocab_size"] = vocabulary
    images: dict[str, Any] = {}
    if spec.takes_images and spec.head in ("classification", "segmentation", "image_text"):
        channels, height, width = spec.input_shape
        images["num_channels"] = channels
        if height == width:
            images["image_size"] = height
    filled = {**{key: value for key, value in {**wanted, **images}.items() if key in known}, **options}
    vision = kind.sub_configs.get("vision_config")
    if images and vision is not None:
        taken = {key: value for key, value in images.items() if key in _known(vision)}
        filled["vision_config"] = {**taken, **dict(options.get("vision_config", {}))}
    return filled


def _drop_foreign_tokens(made: Any, options: Mapping[str, Any]) -> None:
    """Numbers of special tokens that come from the library's default vocabulary and lie outside the data's."""
    size = getattr(made, "vocab_size", None)
    for key in _SPECIAL:
        number = getattr(made, key, None)
        if key not in options and isinstance(number, int) and isinstance(size, int) and number >= size:
            setattr(made, key, None)


@contextlib.contextmanager
def _no_progress_bar(library: ModuleType) -> Iterator[None]:
    """transformers draws one on standard error for every model that it loads."""
    logging = library.utils.logging
    was_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            logging.enable_progress_bar()
