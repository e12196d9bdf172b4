"""A causal language model in a local folder, as Hugging Face writes it: greedy, one report at a time, no download."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pathflip.errors import ConfigError
from pathflip.text.decompose.replies import ReplyError, ReplySubCaption, messages, read_reply

__all__ = ["LocalSpec", "ask_local", "fingerprint"]


class LocalSpec(BaseModel):
    """Which folder, and how much it may write."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    by: Literal["local"] = "local"
    model: Path
    max_tokens: int = Field(default=4096, ge=16)
    device: str = "auto"

    @property
    def parameters(self) -> dict[str, Any]:
        """What an answer depends on besides prompt, model and report."""
        return {"max_tokens": self.max_tokens}


def fingerprint(folder: Path) -> str:
    """A name for a model folder's content: configuration and tokenizer word for word, weights by size and time."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.is_file()):
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
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if not (spec.model / "config.json").is_file():
        raise ConfigError(f"'{spec.model}' holds no config.json; expected the folder of a Hugging Face language model")
    device = ("cuda" if torch.cuda.is_available() else "cpu") if spec.device == "auto" else spec.device
    try:
        tokenizer = AutoTokenizer.from_pretrained(spec.model, local_files_only=True, trust_remote_code=False)
        model: Any = AutoModelForCausalLM.from_pretrained(
            spec.model, local_files_only=True, use_safetensors=True, dtype="auto", trust_remote_code=False
        )
    except (OSError, ValueError, KeyError) as error:
        line = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"'{spec.model}' cannot be opened as a language model with safetensors weights: {line}"
        ) from None
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
