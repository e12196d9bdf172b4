"""A causal language model on this machine, a folder or a GGUF file: greedy, one report at a time, no download."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pathflip.errors import ConfigError
from pathflip.text.decompose.replies import ReplyError, ReplySubCaption, messages, read_reply
from pathflip.text.language_models import (
    LanguageModelFiles,
    find_language_model,
    read_language_model,
    read_language_tokenizer,
)

__all__ = ["LocalSpec", "ask_local", "fingerprint"]


class LocalSpec(BaseModel):
    """Which model (see :func:`~pathflip.text.language_models.find_language_model`), and how much it may write."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    by: Literal["local"] = "local"
    model: Path
    max_tokens: int = Field(default=4096, ge=16)
    device: str = "auto"

    @property
    def parameters(self) -> dict[str, Any]:
        """What an answer depends on besides prompt, model and report."""
        return {"max_tokens": self.max_tokens}


def fingerprint(files: LanguageModelFiles) -> str:
    """A name for a model's content: configuration and tokenizer word for word, weights by size and time."""
    digest = hashlib.sha256()
    own = [files.folder / files.gguf] if files.gguf else sorted(p for p in files.folder.iterdir() if p.is_file())
    for path in own:
        digest.update(path.name.encode())
        if path.suffix in (".json", ".jinja", ".txt") and path.stat().st_size < 50_000_000:
            digest.update(path.read_bytes())
        else:
            digest.update(f"{path.stat().st_size} {path.stat().st_mtime_ns}".encode())
    return f"local:{digest.hexdigest()[:16]}"


def ask_local(
    texts: Mapping[int, str], spec: LocalSpec, on_reply: Callable[[int, list[ReplySubCaption] | str], None]
) -> None:
    """Ask about every text; an answer that cannot be read is asked for once more, with what was wrong.

    Raises:
        ConfigError: the folder holds no language model and tokenizer that transformers can open.
    """
    answer = _load(spec)
    for place, text in texts.items():
        failed: tuple[str, str] | None = None
        outcome: list[ReplySubCaption] | str = ""
        for _ in range(2):
            reply = answer(messages(text, failed))
            try:
                outcome = read_reply(reply)
                break
            except ReplyError as error:
                outcome, failed = f"the answer cannot be used: {error} (2 tries)", (reply, str(error))
        on_reply(place, outcome)


def _load(spec: LocalSpec) -> Callable[[list[dict[str, str]]], str]:
    """A function from a conversation to the model's greedy answer."""
    import torch

    files = find_language_model(spec.model)
    if not files.gguf and not (files.folder / "config.json").is_file():
        raise ConfigError(f"'{spec.model}' holds no config.json; expected the folder of a Hugging Face language model")
    device = ("cuda" if torch.cuda.is_available() else "cpu") if spec.device == "auto" else spec.device
    tokenizer, model = read_language_tokenizer(files), read_language_model(files)
    if not tokenizer.chat_template:
        raise ConfigError(f"'{spec.model}': its tokenizer has no chat template; use an instruction-tuned model")
    model.to(device).eval()

    @torch.inference_mode()
    def answer(conversation: list[dict[str, str]]) -> str:
        rendered = tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
        inputs = tokenizer(rendered, return_tensors="pt", add_special_tokens=False).to(device)
        made = model.generate(
            inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=spec.max_tokens,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
        )
        return str(tokenizer.decode(made[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))

    return answer
