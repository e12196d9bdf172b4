"""A checkpoint is a directory: what was trained, on what, and with which words. Never a pickle.

```text
runs/align/last/
  config.json          format and version, model settings, text settings, input contract, what was run, metrics
  model.safetensors    weights
  tokenizer/           the tokenizer's own files
  text_encoder/        the pretrained text encoder, where it was trained along, or is to be kept here
  released.safetensors of an imported model: tensors without a part in it, kept for export
```

The directory is written beside its final name and renamed, so a kill leaves the old one or the new one.
docs/formats.md specifies the keys.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pathflip import __version__
from pathflip.errors import CheckpointError, ConfigError, ContractError
from pathflip.features.store import FeatureKind
from pathflip.geometry import TileSpec
from pathflip.io.files import atomic_directory, write_json
from pathflip.types import SlideFeatures

__all__ = ["FORMAT_VERSION", "Checkpoint", "InputContract", "caution_of", "load_checkpoint", "save_checkpoint",
           "stored_caution"]  # fmt: skip

FORMAT = "pathflip-checkpoint"
FORMAT_VERSION = 1
"""Raised when a reader of the old version would misread the new one."""

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


class InputContract(BaseModel):
    """The features a model was trained on, and so the only ones it can be asked about.

    Attributes:
        encoder: name of the patch encoder.
        dim: D, width of its features.
        tile_px: side of a tile at ``mpp``, pixels.
        mpp: microns per pixel.
        stride_px: step between tiles, pixels at ``mpp``: neighbourhoods are as large as the stride says. None (of
            checkpoints written before it was kept, and of imported models): any.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    encoder: str
    dim: int = Field(ge=1)
    tile_px: int = Field(ge=1)
    mpp: float = Field(gt=0)
    stride_px: int | None = Field(None, ge=1)

    @classmethod
    def of(cls, features: SlideFeatures | FeatureKind) -> "InputContract":
        """What these features are."""
        return cls(**asdict(features if isinstance(features, FeatureKind) else FeatureKind.of(features)))

    def check(self, features: SlideFeatures) -> None:
        """Refuse features of another kind.

        Raises:
            ContractError: names the field, what the features have and what the model was trained on.
        """
        kind, trained = FeatureKind.of(features), FeatureKind(**self.model_dump())
        if (name := kind.difference(trained)) is not None:
            stride = "" if self.stride_px is None else f", stride_px {self.stride_px}"
            raise ContractError(
                f"slide '{features.slide_id}': {name} of the features is {getattr(kind, name)!r}, the model was "
                f"trained on {getattr(trained, name)!r}; expected encoder {self.encoder!r}, dim {self.dim}, tile_px "
                f"{self.tile_px}, mpp {self.mpp:g}{stride}; extract the slide with these settings, or train on such "
                "features"
            )

    def tile_spec(self) -> TileSpec:
        """How to cut a slide for this model."""
        return TileSpec(self.tile_px, self.mpp, self.stride_px or 0)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A trained model with all it takes to use it.

    Attributes:
        model: in eval mode, on the CPU.
        tokenizer: None where none was saved.
        contract: which features it understands.
        config: the whole of ``config.json``; "text" holds how captions become model input, "recipe" what was run.
        path: the directory it was read from.
    """

    model: nn.Module
    tokenizer: Any
    contract: InputContract
    config: Mapping[str, Any]
    path: Path | None = None


def save_checkpoint(
    path: str | Path,
    model: nn.Module,
    *,
    contract: InputContract,
    model_config: BaseModel | Mapping[str, Any] | None = None,
    tokenizer: Any = None,
    text: BaseModel | Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    released: Mapping[str, Tensor] | None = None,
    text_encoder: Callable[[Path], BaseModel] | None = None,
) -> Path:
    """Write a checkpoint directory; an older checkpoint under that name is replaced in one step.

    Args:
        path: the directory.
        model: its parameters and buffers are written. Sharded ones are collected, which takes every process; then
            only the first process writes.
        contract: the features it was trained on.
        model_config: what ``build_model`` rebuilds it from; default ``model.config``.
        tokenizer: an object with ``save(folder)``.
        text: how captions become model input.
        recipe: what was run: name, settings, data.
        metrics: measured values.
        text_encoder: writes a pretrained text encoder into ``text_encoder/`` and returns ``text`` as it is then.
        released: tensors of an imported file that the model does not use (:mod:`pathflip.published.import_export`).

    Raises:
        CheckpointError: ``path`` holds something that is not a checkpoint, or weights are not finite.
    """
    path = Path(path)
    weights = _weights(model)
    if torch.distributed.is_initialized() and torch.distributed.get_rank() != 0:
        return path
    _refuse_foreign_target(path)
    _refuse_non_finite(path, weights)
    config = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "pathflip_version": __version__,
        "model": _plain(model_config if model_config is not None else model.config),  # type: ignore[arg-type]
        "text": _plain(text),
        "contract": contract.model_dump(),
        "recipe": dict(recipe or {}),
        "metrics": dict(metrics or {}),
    }
    with atomic_directory(path) as temporary:
        if text_encoder is not None:
            config["text"] = _plain(text_encoder(temporary / "text_encoder"))
        write_json(temporary / "config.json", config)
        save_file(weights, temporary / "model.safetensors", metadata={"format": "pt"})
        if tokenizer is not None:
            tokenizer.save(temporary / "tokenizer")
        if released:
            save_file(dict(released), temporary / "released.safetensors", metadata={"format": "pt"})
    return path


def load_checkpoint(
    path: str | Path,
    build: Callable[[Mapping[str, Any]], nn.Module] | None = None,
    load_tokenizer: Callable[[Path], Any] | None = None,
) -> Checkpoint:
    """Read a checkpoint directory.

    Args:
        path: a directory written by :func:`save_checkpoint`, or a run's directory (then its ``best/`` or ``last/``).
        build: makes the untrained model from its settings; default ``pathflip.models.build_model``.
        load_tokenizer: reads ``tokenizer/``; default ``pathflip.text.tokenizer.load_tokenizer``.

    Raises:
        CheckpointError: a part is missing, damaged, foreign, or of another version.
    """
    path = _resolve(Path(path))
    config = _read_config(path)
    weights = _read_weights(path / "model.safetensors")
    try:
        contract = InputContract(**config["contract"])
        _refuse_more_layers_than_weights(path, config["model"], len(weights))
        with torch.device("meta"):  # shapes without memory: config.json may say anything
            outline = (build or _build_model)(config["model"])
        _check_weights(path, outline, weights)
        model = (build or _build_model)(config["model"])
    except (ConfigError, ValidationError, KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path / 'config.json'}: settings cannot be used: {_one_line(error)}") from error
    model.load_state_dict(weights)
    folder = path / "tokenizer"
    tokenizer = _read_tokenizer(folder, load_tokenizer) if folder.is_dir() else None
    _check_vocabulary(path, config["model"], tokenizer)
    return Checkpoint(model.eval(), tokenizer, contract, config, path)


def caution_of(settings: Mapping[str, Any]) -> str:
    """What every result of a model must say ("trained on painted slides …"), from the settings of its checkpoint."""
    note = str(settings.get("recipe", {}).get("note", ""))
    return note if "medical device" in note else f"{note} Research software, not a medical device.".strip()


def stored_caution(path: Path) -> str:
    """:func:`caution_of` a checkpoint directory, read without its weights; that of any model where it is gone."""
    for folder in (path, path / "best", path / "last"):
        try:
            return caution_of(json.loads((folder / "config.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, RecursionError, AttributeError):
            continue
    return caution_of({})


def _resolve(path: Path) -> Path:
    """The checkpoint directory meant by ``path``, or an error that says what stands there instead."""
    if path.is_file():
        hint = "it is a pickle, which is never loaded; " if path.suffix.lower() in _PICKLES else ""
        raise CheckpointError(f"{path}: expected a checkpoint directory, got a file; {hint}use  pathflip import  first")
    if not path.is_dir():
        raise CheckpointError(
            f"{path}: no such checkpoint; expected a directory with config.json and model.safetensors"
        )
    if (path / "config.json").is_file():
        return path
    for name in ("best", "last"):
        if (path / name / "config.json").is_file():
            return path / name
    entries = sorted(entry.name for entry in path.iterdir())[:5]
    pickles = any(name.endswith(_PICKLES) for name in entries)
    hint = "published weights are read by  pathflip import" if pickles else "give the run's or checkpoint's directory"
    raise CheckpointError(
        f"{path}: not a checkpoint: config.json is missing (found: {', '.join(entries) or 'nothing'}); {hint}"
    )


def _read_config(path: Path) -> dict[str, Any]:
    file = path / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{file}: cannot be read as JSON ({_one_line(error)}); the checkpoint is damaged"
        ) from error
    if (file.parent / "assistant.safetensors").is_file():
        raise CheckpointError(
            f"{file.parent}: is an assistant; expected an alignment model, such as its 'aligned' folder"
        )
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise CheckpointError(
            f"{file}: is of another program (format is not '{FORMAT}'); published weights are read by  pathflip import"
        )
    if config.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{file}: format_version is {config.get('format_version')!r}, expected {FORMAT_VERSION}; "
            f"it was written by pathflip {config.get('pathflip_version')}, this is {__version__}; install that version"
        )
    return config


def _read_weights(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        beside = [p.name for p in file.parent.iterdir() if p.suffix.lower() in _PICKLES]
        hint = f"; {beside[0]} is a pickle and is not loaded: use  pathflip import" if beside else ""
        raise CheckpointError(f"{file}: missing; expected the weights of the checkpoint{hint}")
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{file}: cannot be read ({_one_line(error)}); the file is truncated or not safetensors; copy it again"
        ) from error


def _refuse_more_layers_than_weights(path: Path, settings: Mapping[str, Any], num_weights: int) -> None:
    """A model has a tensor a layer at least; one of a thousand million layers would be built for hours."""
    for name, value in settings.items():
        if "layers" in name and isinstance(value, int) and value > num_weights:
            raise CheckpointError(
                f"{path}: config.json says {name} {value}, but model.safetensors holds {num_weights} tensors; "
                "the two are not of one checkpoint"
            )


def _check_vocabulary(path: Path, settings: Mapping[str, Any], tokenizer: Any) -> None:
    rows, words = settings.get("vocab_size"), getattr(tokenizer, "vocab_size", None)
    if isinstance(rows, int) and isinstance(words, int) and words > rows:
        raise CheckpointError(
            f"{path}: its tokenizer has {words} ids, the model {rows} embeddings; they are not of one checkpoint"
        )


def _check_weights(path: Path, model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Every name, shape and kind of number must be the model's, and every number finite."""
    own = model.state_dict()
    missing, foreign = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    shapes = sorted(name for name in own.keys() & weights.keys() if own[name].shape != weights[name].shape)
    if missing or foreign or shapes:
        raise CheckpointError(
            f"{path}: weights do not fit the model of config.json: missing {_some(missing)}, unknown {_some(foreign)}, "
            f"other shape {_some(shapes)}; config.json and model.safetensors are not of one checkpoint"
        )
    kinds = sorted(n for n, value in own.items() if value.is_floating_point() != weights[n].is_floating_point())
    if kinds:
        dtype = str(weights[kinds[0]].dtype).removeprefix("torch.")
        raise CheckpointError(
            f"{path}: {_some(kinds)} hold {dtype}, expected floating point; it was quantised elsewhere"
        )
    bad = [n for n, value in weights.items() if value.is_floating_point() and not torch.isfinite(value).all()]
    if bad:
        raise CheckpointError(f"{path}: {_some(bad)} hold NaN or infinity; train again, or copy the checkpoint again")


def _read_tokenizer(folder: Path, load: Callable[[Path], Any] | None) -> Any:
    try:
        return (load or _load_tokenizer)(folder)
    except Exception as error:  # each tokenizer library has its own errors
        raise CheckpointError(f"{folder}: the tokenizer cannot be read ({_one_line(error)}); copy it again") from error


def _build_model(config: Mapping[str, Any]) -> nn.Module:
    from pathflip.models import build_model

    model: nn.Module = build_model(config)
    return model


def _load_tokenizer(folder: Path) -> Any:
    from pathflip.text.tokenizer import load_tokenizer

    return load_tokenizer(folder)


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """Contiguous CPU copies (so that tied weights may be written), collected where they are sharded."""
    whole = {
        name: value.full_tensor() if hasattr(value, "full_tensor") else value
        for name, value in model.state_dict().items()
    }
    return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in whole.items()}


def _refuse_foreign_target(path: Path) -> None:
    if path.is_file() or (path.is_dir() and any(path.iterdir()) and not _is_checkpoint(path)):
        raise CheckpointError(f"{path}: exists and is not a checkpoint; it would be replaced; choose another directory")


def _is_checkpoint(path: Path) -> bool:
    try:
        return _read_config(path).get("format") == FORMAT
    except CheckpointError:
        return False


def _refuse_non_finite(path: Path, weights: dict[str, Tensor]) -> None:
    bad = [name for name, value in weights.items() if value.is_floating_point() and not torch.isfinite(value).all()]
    if bad:
        raise CheckpointError(f"{path}: not written: {_some(bad)} hold NaN or infinity; nobody should use such weights")


def _plain(value: BaseModel | Mapping[str, Any] | None) -> dict[str, Any]:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return dict(value or {})


def _some(names: list[str]) -> str:
    return f"{len(names)} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})" if names else "none"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
