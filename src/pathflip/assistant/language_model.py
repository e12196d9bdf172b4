"""Language models: opened from this machine, or built small; frozen, with LoRA, or trained whole."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from pathflip.errors import ConfigError, MissingExtraError
from pathflip.models.cpu import accelerate_for_cpu
from pathflip.processes import transformers_are_quiet
from pathflip.text.language_models import find_language_model, read_language_model, read_language_tokenizer

__all__ = ["LanguageModelSpec", "LoraSpec", "add_lora", "build_language_model", "open_language_model", "open_tokenizer"]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class LoraSpec(BaseModel):
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685), through peft.

    Attributes:
        rank, alpha, dropout: peft's r, lora_alpha, lora_dropout.
        targets: names of the linear layers, or "all-linear".
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: int = Field(64, ge=1)
    alpha: float = Field(128, gt=0)
    dropout: float = Field(0.05, ge=0, lt=1)
    targets: tuple[str, ...] | Literal["all-linear"] = "all-linear"


class LanguageModelSpec(BaseModel):
    """Which language model, and what of it is trained.

    Attributes:
        source: a folder in Hugging Face layout, a GGUF file, ``smollm2`` (a Python package carries it), or the name of
            a model in the local cache. Nothing is downloaded. Empty: it must be given when training starts.
        train: "frozen" (the projector alone learns), "lora", or "full".
        lora: the adapters, where ``train`` is "lora".
        stored: its weights, trained in full at an earlier stage, are kept in the checkpoint.
        dtype: precision its weights are held in; "auto" takes the stored one.
        quantise: hold the weights in 4 or 8 bits (package bitsandbytes; not with "full").
        gradient_checkpointing: recompute activations: less memory, one more forward.
        template: options of the chat template, for example {"enable_thinking": false}.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = ""
    train: Literal["frozen", "lora", "full"] = "frozen"
    lora: LoraSpec = LoraSpec()
    stored: bool = False
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    quantise: Literal["", "4bit", "8bit"] = ""
    gradient_checkpointing: bool = False
    template: dict[str, Any] = {}

    @property
    def owns_weights(self) -> bool:
        """Whether the language model's weights exist only here, so that a checkpoint must hold them."""
        return self.stored or self.train == "full"


def open_tokenizer(source: str | Path) -> Any:
    """The tokenizer of a language model.

    Raises:
        ConfigError: there is none, locally; the message says how to get it.
    """
    return read_language_tokenizer(find_language_model(source))


def open_language_model(spec: LanguageModelSpec, source: str | Path | None = None) -> Any:
    """The language model of ``spec``, weights and all, frozen unless it is trained in full.

    Args:
        spec: which.
        source: folder or name instead of ``spec.source`` (a model that was moved).

    Raises:
        ConfigError: no such model locally, or one that cannot be trained as asked.
        MissingExtraError: quantised, and bitsandbytes is absent.
    """
    if spec.quantise and spec.train == "full":
        raise ConfigError("language.quantise: quantised weights cannot be trained in full; expected train 'lora'")
    files = find_language_model(source or spec.source)
    if spec.quantise and files.gguf:
        raise ConfigError(
            f"language.quantise: '{files.gguf}' is a GGUF file, whose weights are read as plain numbers; expected a "
            "folder as Hugging Face writes it, or no quantise"
        )
    quantised = {"quantization_config": _quantised(spec)} if spec.quantise else {}
    lm = read_language_model(files, _DTYPES.get(spec.dtype, "auto"), **quantised)
    return prepare_language_model(lm, spec)


def build_language_model(settings: Mapping[str, Any], vocab_size: int, end_id: int, pad_id: int, seed: int = 0) -> Any:
    """A Qwen3 with random weights, to be trained in full; ``settings`` are fields of ``transformers.Qwen3Config``.

    Raises:
        ConfigError: settings Qwen3 does not know, or that do not fit together.
    """
    from transformers import Qwen3Config, Qwen3ForCausalLM

    unknown = sorted(settings.keys() - Qwen3Config().to_dict().keys())
    if unknown:
        raise ConfigError(f"built: unknown setting '{unknown[0]}'; expected fields of Qwen3Config")
    config = Qwen3Config(**{**settings, "vocab_size": vocab_size, "eos_token_id": end_id, "pad_token_id": pad_id})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        with transformers_are_quiet():
            empty = Qwen3ForCausalLM(config)
        return prepare_language_model(empty, LanguageModelSpec(train="full"))


def add_lora(lm: nn.Module, spec: LoraSpec) -> None:
    """Put adapters into a model's linear layers, in place; everything else of it is frozen.

    Raises:
        ConfigError: no layer has such a name.
    """
    from peft import LoraConfig, inject_adapter_in_model

    targets = spec.targets if isinstance(spec.targets, str) else list(spec.targets)
    config = LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,  # type: ignore[arg-type]
        lora_dropout=spec.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    try:
        inject_adapter_in_model(config, lm)
    except ValueError as error:
        raise ConfigError(f"language.lora.targets: {' '.join(str(error).split())[:160]}") from None
    for name, parameter in lm.named_parameters():
        parameter.requires_grad_("lora_" in name)
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def prepare_language_model(lm: Any, spec: LanguageModelSpec) -> Any:
    """Freeze, add adapters, checkpoint, as ``spec`` says; in place."""
    accelerate_for_cpu(lm)
    lm.requires_grad_(spec.train == "full")
    if spec.train == "lora":
        add_lora(lm, spec.lora)
    if spec.gradient_checkpointing:
        lm.gradient_checkpointing_enable({"use_reentrant": False})
    return lm


def _quantised(spec: LanguageModelSpec) -> Any:
    from importlib.util import find_spec

    from transformers import BitsAndBytesConfig

    if find_spec("bitsandbytes") is None:
        raise MissingExtraError("bitsandbytes", "quantise", f"a language model in {spec.quantise}")
    if spec.quantise == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
