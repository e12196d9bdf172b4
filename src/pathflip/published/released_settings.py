"""What a released file tells of its model, and what has to be assumed: every assumption is put into words."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from torch import Tensor

from pathflip.arguments import as_texts
from pathflip.checkpoint import InputContract
from pathflip.data.align import TextSpec
from pathflip.data.regions import RegionSpec
from pathflip.errors import CheckpointError, ConfigError
from pathflip.models import build_config
from pathflip.published import latent_model, qformer_model
from pathflip.text.tokenizer import Tokenizer, load_tokenizer

__all__ = [
    "KINDS",
    "configuration",
    "contract_of",
    "differences",
    "kind_of",
    "read_settings",
    "reading_of",
    "tokenizer_of",
]

KINDS = ("published", "perceiver")

_MARKS = {"published": ("Qformer.", "path_encoder."), "perceiver": ("slide_encoder.", "image_proj.")}
_HEAD_WIDTH = 64
_Spec = TypeVar("_Spec", bound=BaseModel)


def kind_of(source: Path, tensors: Mapping[str, Tensor], kind: str | None) -> str:
    """Which variant the names belong to; an error where they belong to neither, or not to the one asked for."""
    if kind is not None and kind not in KINDS:
        raise ConfigError(f"kind: got '{kind}', expected {' or '.join(KINDS)}")
    kinds = [k for k, marks in _MARKS.items() if any(name.startswith(marks) for name in tensors)]
    if kinds and kind in (None, *kinds):
        return kind or kinds[0]
    names = ", ".join(sorted(tensors)[:3])
    if kinds:
        raise CheckpointError(f"{source}: holds a {kinds[0]} model, not a {kind} one (its names: {names}, …)")
    ours = any(name.startswith(("qformer.", "patch_proj.")) for name in tensors)
    hint = "; the names are this package's own: give the checkpoint's directory to the verb itself" if ours else ""
    raise CheckpointError(f"{source}: not a released PathFLIP model (its names: {names}, …){hint}")


def read_settings(settings: Sequence[str]) -> dict[str, dict[str, Any]]:
    """``KEY=VALUE`` sorted by what they set: model, text, regions."""
    chosen: dict[str, dict[str, Any]] = {"model": {}, "text": {}, "regions": {}}
    for setting in as_texts(settings, "settings"):
        path, equals, text = setting.partition("=")
        part, _, key = path.rpartition(".")
        if not equals or (part or "model") not in chosen:
            raise ConfigError(
                f"--set: got '{setting}', expected KEY=VALUE, KEY of the model or text.KEY or regions.KEY, "
                "for example num_heads=4"
            )
        try:
            chosen[part or "model"][key] = json.loads(text)
        except json.JSONDecodeError:
            chosen[part or "model"][key] = text
    return chosen


def configuration(kind: str, tensors: Mapping[str, Tensor], chosen: dict[str, Any], assumed: list[str]) -> Any:
    """The model's configuration: sizes from the tensors, switches as released, then what the caller chose."""
    sizes = _published_sizes(tensors) if kind == "published" else _perceiver_sizes(tensors)
    measured = {key: value for key, value in sizes.items() if value is not None}
    released = dict(qformer_model.AS_RELEASED if kind == "published" else latent_model.AS_RELEASED)
    if {**measured, **chosen}.get("region_loss") == "text_conditioned":
        released["normalize"] = "positives"
    heads = {"num_heads": "width"} if kind == "published" else {"num_heads": "embed_dim", "text_heads": "text_width"}
    for name, width in heads.items():
        if name not in chosen and width in measured:
            measured[name] = _heads(name, measured[width])
            assumed.append(f"{name} {measured[name]}: {_HEAD_WIDTH} wide each, as published")
    config = build_config({**released, **measured, **chosen, "kind": kind})
    guessed: tuple[str, ...] = ("mixing_heads", "region_heads") if kind == "published" else ("pooling",)
    guessed += ("top_k",) if getattr(config, "region_loss", "") == "soft_top_k" else ()
    assumed += [f"{name} {getattr(config, name)}: as published" for name in guessed if name not in chosen]
    if "raw_logit_scale" not in chosen:
        assumed.append("logit scales are used as they are, not exponentiated: as released")
    return config


def _heads(name: str, width: int) -> int:
    if width % _HEAD_WIDTH:
        raise ConfigError(
            f"{name}: cannot be told from the file (width {width} is no multiple of the published {_HEAD_WIDTH} a "
            f"head); give it with --set {name}=N"
        )
    return width // _HEAD_WIDTH


def _published_sizes(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    bert = "Qformer.bert."
    crossing = _numbers(tensors, r"^Qformer\.bert\.encoder\.layer\.(\d+)\.crossattention\.")
    layers = len(_numbers(tensors, r"^Qformer\.bert\.encoder\.layer\.(\d+)\."))
    return {
        "feature_dim": _size(tensors, "path_encoder.weight", 1),
        "embed_dim": _size(tensors, "path_encoder.weight", 0),
        "vocab_size": _size(tensors, f"{bert}embeddings.word_embeddings.weight", 0),
        "max_tokens": _size(tensors, f"{bert}embeddings.position_embeddings.weight", 0),
        "width": _size(tensors, "query_tokens", 2),
        "num_queries": _size(tensors, "query_tokens", 1),
        "num_layers": layers or None,
        "ffn_width": _size(tensors, f"{bert}encoder.layer.0.intermediate.dense.weight", 0),
        "cross_every": crossing[1] - crossing[0] if len(crossing) > 1 else layers or None,
        "mixing_layers": len(_numbers(tensors, r"^path_trans\.layers\.(\d+)\.")) or None,
        "region_head": "normed" if any(name.startswith("fg_head.ln_") for name in tensors) else "projected",
        "bias": 0.0 if "logit_bias" in tensors else None,
    }


def _perceiver_sizes(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    bert = "text_encoder."
    conditioned = any(name.startswith("fine_gained_loss_head.") for name in tensors)
    return {
        "feature_dim": _size(tensors, "image_proj.0.weight", 1),
        "embed_dim": _size(tensors, "image_proj.0.weight", 0),
        "num_latents": _size(tensors, "slide_encoder.visual_tokens", 1),
        "num_layers": len(_numbers(tensors, r"^slide_encoder\.encoder_layers\.(\d+)\.")) or None,
        "vocab_size": _size(tensors, f"{bert}embeddings.word_embeddings.weight", 0),
        "max_tokens": _size(tensors, f"{bert}embeddings.position_embeddings.weight", 0),
        "text_width": _size(tensors, f"{bert}embeddings.word_embeddings.weight", 1),
        "text_layers": len(_numbers(tensors, r"^text_encoder\.encoder\.layer\.(\d+)\.")) or None,
        "text_ffn_width": _size(tensors, f"{bert}encoder.layer.0.intermediate.dense.weight", 0),
        "slide_loss": "sigmoid" if "global_logit_scale" in tensors else "info_nce",
        "region_loss": "text_conditioned" if conditioned else "soft_top_k",
    }


def _size(tensors: Mapping[str, Tensor], name: str, axis: int) -> int | None:
    """None where there is no such tensor: it is named with all others that are missing, later."""
    shape = tensors[name].shape if name in tensors else ()
    return shape[axis] if axis < len(shape) else None


def _numbers(tensors: Mapping[str, Tensor], pattern: str) -> list[int]:
    return sorted({int(match[1]) for name in tensors if (match := re.match(pattern, name))})


def reading_of(
    kind: str, config: Any, chosen: Mapping[str, dict[str, Any]], assumed: list[str]
) -> tuple[TextSpec, RegionSpec]:
    """How captions and slides reach the model."""
    longest = config.max_tokens
    text = {
        "sampler": "published" if kind == "published" else "sentences",
        "polarity": False,
        "visual_only": False,
        "caption_tokens": min(512, longest),
        "sub_caption_tokens": min(256, longest),
    }
    regions = {"side": 16 if kind == "published" else 1}
    if kind == "published" and not chosen["regions"]:
        assumed.append("regions are blocks of 16 × 16 neighbouring tiles; released ones were 256 rows in file order")
    return _validated("text", TextSpec, {**text, **chosen["text"]}), _validated(
        "regions", RegionSpec, {**regions, **chosen["regions"]}
    )


def _validated(part: str, spec: type[_Spec], values: Mapping[str, Any]) -> _Spec:
    try:
        return spec.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, (part, *first["loc"])))
        raise ConfigError(f"{where}: {first['msg']} (got {first['input']!r})") from None


def contract_of(source: Path, encoder: str | None, dim: int, tile_px: int | None, mpp: float | None) -> InputContract:
    """The features the model was trained on; what is not given is asked for by name."""
    stated = {"encoder": encoder, "tile_px": tile_px, "mpp": mpp}
    missing = [f"--{name.replace('_', '-')}" for name, value in stated.items() if value is None]
    if missing:
        raise ConfigError(
            f"{source}: does not say which features ({dim} wide) it was trained on; give {', '.join(missing)}, "
            "and the model will refuse all others"
        )
    return _validated("contract", InputContract, {**stated, "dim": dim})


def tokenizer_of(folder: str | Path, rows: int, assumed: list[str]) -> Tokenizer:
    """The tokenizer in a folder, refused where it has more token ids than the model."""
    tokenizer = load_tokenizer(folder)
    if tokenizer.vocab_size > rows:
        raise ConfigError(
            f"tokenizer '{folder}': {tokenizer.vocab_size} token ids, but the model knows {rows}; it was trained with "
            "another tokenizer"
        )
    if tokenizer.vocab_size < rows:
        assumed.append(f"the tokenizer uses {tokenizer.vocab_size} of the model's {rows} token ids")
    return tokenizer


def differences(kind: str, config: Mapping[str, Any]) -> list[str]:
    """Settings of a model that the released code does not have, and that change its outputs."""
    if kind == "perceiver":
        shaping = {name: latent_model.AS_RELEASED[name] for name in ("pooling", "second_skip")}
    else:
        fields = qformer_model.PublishedConfig.model_fields
        shaping = {name: fields[name].default for name in ("text_pooling", "standardize", "region_keys", "heat")}
    return [
        f"the model has {name}={config[name]!r}, the released code {value!r}: outputs differ there"
        for name, value in shaping.items()
        if config.get(name, value) != value and not (name == "pooling" and config[name] == "cls")
    ]
