"""An assistant on disk: a directory that holds or names all of its parts. Never a pickle.

```text
runs/assistant/last/
  config.json            format and version, what is shown, which language model, what was run, metrics
  assistant.safetensors  the projector; LoRA adapters; the language model's own weights where they were trained here
  language/              the language model's configuration and tokenizer
  aligned/               the alignment checkpoint that encodes the slides, whole
```

A pretrained language model that is frozen, or trained through LoRA, is named and not copied.
"""

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pathflip import __version__
from pathflip.assistant.calibration import AnswerCalibration, read_answer_calibration
from pathflip.assistant.language_model import (
    LanguageModelSpec,
    open_language_model,
    open_tokenizer,
    prepare_language_model,
)
from pathflip.assistant.visual_tokens import VisualTokenizer
from pathflip.errors import CheckpointError, ConfigError
from pathflip.features.devices import device_named
from pathflip.inference import Aligned, load
from pathflip.io.files import atomic_directory, write_json
from pathflip.io.model_folder import check_model_folder, stored_shapes
from pathflip.models.assistant import Assistant, AssistantConfig
from pathflip.models.measurements import MEASURES_VERSION
from pathflip.processes import transformers_are_quiet
from pathflip.text.chat import ChatTemplate
from pathflip.text.questions import MOST_OPTIONS

__all__ = ["LoadedAssistant", "load_assistant", "save_assistant", "stored_weights"]

FORMAT = "pathflip-assistant"
FORMAT_VERSION = 1
RENAMED = {"projector.asked.weight": "projector.text.weight"}
"""Weights that older checkpoints hold under another name."""


@dataclass(frozen=True, eq=False)
class LoadedAssistant:
    """A trained assistant with everything it takes to use it.

    Attributes:
        model: projector and language model, in eval mode.
        aligned: the alignment model that encodes slides and texts.
        template: tokenizer and chat template.
        visual_tokenizer: makes the visual tokens of slides and questions.
        language: which language model. config: the whole of ``config.json``. path: its directory.
        calibration: of its probabilities, read once (``calibration.json``); by default one that changes nothing.
    """

    model: Assistant
    aligned: Aligned
    template: ChatTemplate
    visual_tokenizer: VisualTokenizer
    language: LanguageModelSpec
    config: Mapping[str, Any]
    path: Path | None = None
    calibration: AnswerCalibration = field(default_factory=AnswerCalibration)

    @property
    def device(self) -> torch.device:
        """The device that the language model is on."""
        device: torch.device = next(self.model.parameters()).device
        return device


def stored_weights(model: Assistant, language: LanguageModelSpec) -> dict[str, Tensor]:
    """The weights a checkpoint holds: what cannot be had elsewhere. Tied ones once."""
    out: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in model.state_dict().items():
        if name.startswith("lm.") and not language.owns_weights and "lora_" not in name:
            continue
        if value.data_ptr() in seen and value.numel():
            continue
        seen.add(value.data_ptr())
        out[name] = value
    return out


def base_digest(model: Assistant) -> str:
    """A digest of the language model that adapters and projector were trained on: names, shapes and some values of
    each of its own weights. Adapters change none of them, so it is the same before and after."""
    digest = sha256()
    for name, value in sorted(model.lm.state_dict().items()):
        if "lora_" not in name:
            ends = torch.cat([value.flatten()[:32], value.flatten()[-32:]]).detach().cpu()
            plain = name.replace(".base_layer.", ".").removeprefix("base_model.model.")
            digest.update(f"{plain} {tuple(value.shape)} {ends.double().tolist()}".encode())
    return digest.hexdigest()[:16]


def _check_base(path: Path, model: Assistant, language: LanguageModelSpec, config: Mapping[str, Any]) -> None:
    """Adapters and projector fit the language model they were trained on, and no other of the same shape."""
    trained_on = config.get("language_base")
    if language.owns_weights or trained_on is None or language.quantise:
        return
    if (digest := base_digest(model)) != trained_on:
        raise CheckpointError(
            f"{path}: was trained on a language model with digest {trained_on}, the one at hand "
            f"('{language.source}', or what --language-model named) has {digest}; give the one it was trained on"
        )


def save_assistant(
    path: str | Path,
    model: Assistant,
    *,
    language: LanguageModelSpec,
    template: ChatTemplate,
    aligned: Path,
    recipe: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> Path:
    """Write an assistant's directory; an older one under that name is replaced in one step.

    Args:
        path: the directory.
        model: what was trained. language: how its language model was made.
        template: with its tokenizer.
        aligned: directory of the alignment checkpoint; it is copied.
        recipe: what was run. metrics: measured values.

    Raises:
        CheckpointError: something else stands there, or weights are not finite.
    """
    path = Path(path)
    if path.is_file() or (path.is_dir() and any(path.iterdir()) and not (path / "assistant.safetensors").is_file()):
        raise CheckpointError(f"{path}: exists and is not an assistant; it would be replaced; choose another directory")
    weights = {n: v.detach().to("cpu", copy=True).contiguous() for n, v in stored_weights(model, language).items()}
    bad = [name for name, value in weights.items() if value.is_floating_point() and not torch.isfinite(value).all()]
    if bad:
        raise CheckpointError(f"{path}: not written: {bad[0]} holds NaN or infinity; nobody should use such weights")
    config = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "pathflip_version": __version__,
        "assistant": model.config.model_dump(mode="json"),
        "measures": MEASURES_VERSION,
        "language": language.model_dump(mode="json"),
        "language_base": base_digest(model),
        "fallback_template": template.is_fallback,
        "recipe": dict(recipe or {}),
        "metrics": dict(metrics or {}),
    }
    with atomic_directory(path) as temporary:
        write_json(temporary / "config.json", config)
        save_file(weights, temporary / "assistant.safetensors", metadata={"format": "pt"})
        template.tokenizer.save_pretrained(temporary / "language")
        model.lm.config.save_pretrained(temporary / "language")
        shutil.copytree(aligned, temporary / "aligned")
    return path


def load_assistant(
    path: str | Path, device: str | torch.device | None = None, language_model: str | Path | None = None
) -> LoadedAssistant:
    """Open an assistant's directory (or a run's, then its ``best/`` or ``last/``), ready to use.

    Args:
        path: the directory.
        device: default: a GPU if there is one.
        language_model: where a pretrained language model lies now, if not where it was trained from.

    Raises:
        CheckpointError: missing, damaged or foreign.
        ConfigError: its language model is not to be found.
    """
    path = _resolve(Path(path))
    config = _read_config(path)
    chosen = device_named(device)
    try:
        shown, language = AssistantConfig(**config["assistant"]), LanguageModelSpec(**config["language"])
    except (KeyError, TypeError, ValidationError) as error:
        raise CheckpointError(
            f"{path / 'config.json'}: settings cannot be used: {' '.join(str(error).split())[:160]}"
        ) from None
    _check_language_model(path, language)
    template = ChatTemplate(open_tokenizer(path / "language"), language.template)
    lm = _language_model(path, language, language_model)
    model = Assistant(shown, lm, [ids[-1] for ids in template.letter_ids(MOST_OPTIONS)])
    _check_base(path, model, language, config)
    _fill(path, model, language)
    aligned = load(path / "aligned", chosen)
    model.to(chosen).eval().requires_grad_(False)
    return LoadedAssistant(
        model=model,
        aligned=aligned,
        template=template,
        visual_tokenizer=VisualTokenizer(aligned, shown),
        language=language,
        config=config,
        path=path,
        calibration=read_answer_calibration(path),
    )


def _check_language_model(path: Path, language: LanguageModelSpec) -> None:
    """Look at the language model's settings before any library builds from them.

    Raises:
        CheckpointError: they cannot be.
    """
    weights = path / "assistant.safetensors" if language.owns_weights else None
    try:
        check_model_folder(path / "language", "its language model", weights)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _language_model(path: Path, language: LanguageModelSpec, moved: str | Path | None) -> Any:
    """Weights from where they are kept, or an empty model to be filled from the checkpoint."""
    if not language.owns_weights:
        return open_language_model(language, moved)
    from transformers import AutoConfig, AutoModelForCausalLM

    folder, weights = path / "language", path / "assistant.safetensors"
    try:
        settings = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"), transformers_are_quiet():  # sizes before memory
            outline = AutoModelForCausalLM.from_config(settings, trust_remote_code=False)
        wanted = sum(value.numel() for value in outline.parameters())
        stored = sum(math.prod(shape) for shape in stored_shapes(weights).values())
        if wanted > stored:
            raise ConfigError(f"'{folder}' describes {wanted} weights, '{weights.name}' holds {stored}")
        with transformers_are_quiet():
            empty = AutoModelForCausalLM.from_config(settings, trust_remote_code=False)
        return prepare_language_model(empty, language)
    except Exception as error:  # transformers raises many kinds on settings that do not fit together
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise CheckpointError(f"{path}: its language model cannot be built ({reason}); copy it again") from None


def _fill(path: Path, model: Assistant, language: LanguageModelSpec) -> None:
    file = path / "assistant.safetensors"
    try:
        weights = load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: cannot be read ({' '.join(str(error).split())[:160]}); copy it again") from None
    weights = {RENAMED.get(name, name): value for name, value in weights.items()}
    own = stored_weights(model, language)
    missing, foreign = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    shapes = sorted(n for n in own.keys() & weights.keys() if own[n].shape != weights[n].shape)
    if missing or foreign or shapes:
        raise CheckpointError(
            f"{path}: weights do not fit config.json: missing {missing[:2]}, unknown {foreign[:2]}, "
            f"other shape {shapes[:2]}; another version of PathFLIP wrote it, or the files are not of one checkpoint: "
            "train it again, or use that version"
        )
    kinds = [n for n, value in own.items() if value.is_floating_point() != weights[n].is_floating_point()]
    bad = [n for n in own if weights[n].is_floating_point() and not torch.isfinite(weights[n]).all()]
    if kinds or bad:
        raise CheckpointError(
            f"{file}: {(kinds or bad)[0]} holds {'no floating-point numbers' if kinds else 'NaN or infinity'}; "
            "copy the assistant again, or train it again"
        )
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(weights[name])


def _resolve(path: Path) -> Path:
    for folder in (path, path / "best", path / "last"):
        if (folder / "assistant.safetensors").is_file():
            return folder
    entries = sorted(entry.name for entry in path.iterdir())[:5] if path.is_dir() else []
    raise CheckpointError(
        f"{path}: no assistant here (assistant.safetensors is missing; found: {', '.join(entries) or 'nothing'}); "
        "give the directory that  pathflip train instruct_…  wrote"
    )


def _read_config(path: Path) -> dict[str, Any]:
    file = path / "config.json"
    try:
        config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: cannot be read as JSON ({' '.join(str(error).split())[:120]})") from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{file}: holds a {type(config).__name__}, expected the settings of an assistant")
    if config.get("format") != FORMAT or config.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{file}: format is {config.get('format')!r}, version {config.get('format_version')!r}; "
            f"expected {FORMAT!r}, version {FORMAT_VERSION}"
        )
    measures = config.get("measures", config.get("looking"))  # "looking" in older checkpoints
    if measures != MEASURES_VERSION:
        raise CheckpointError(
            f"{file}: it was trained on other measures of slides (version {measures!r}, expected "
            f"{MEASURES_VERSION}); train it again, or use the PathFLIP that wrote it ({config.get('pathflip_version')})"
        )
    return config
