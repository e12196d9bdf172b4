"""The authors' checkpoints in and out: ``import_released`` makes a checkpoint directory, ``export_released`` goes back.

What a file cannot say (heads, how texts are pooled, which features it was trained on) is taken from options or from the
published settings, and every such assumption is reported and stored. Pickles are read with ``weights_only`` alone, so
no code in them can run. docs/released.md tells what is accepted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pathflip.arguments import as_texts
from pathflip.checkpoint import load_checkpoint, save_checkpoint
from pathflip.errors import CheckpointError, ConfigError
from pathflip.io.files import atomic_path
from pathflip.models import build_model
from pathflip.published.parameter_names import UNUSED, from_published, published_name, to_published
from pathflip.published.released_adapters import merge_adapters, merge_lora
from pathflip.published.released_files import digest, load_tensors, named, plain_names, read_released
from pathflip.published.released_settings import (
    KINDS,
    configuration,
    contract_of,
    differences,
    kind_of,
    read_settings,
    reading_of,
    tokenizer_of,
)

__all__ = ["Exported", "Imported", "export_released", "import_released", "merge_lora", "read_released"]

_OURS_ALONE = ("slide_logit_scale", "feature_mean", "feature_std")
"""Parameters of repaired models that the released code does not have."""
_ASSISTANT = ("llm.", "llm_model.", "path_proj_llm.", "image_proj_llm")


@dataclass(frozen=True)
class Imported:
    """An imported checkpoint, and what had to be assumed.

    Attributes:
        out: the checkpoint directory. source: the released file.
        kind: ``published`` (variant 1) or ``perceiver`` (variant 2).
        model: the configuration.
        contract: the features the model understands.
        parameters: tensors the model uses. merged_lora: layers whose LoRA was merged.
        ignored: released tensors without a part in alignment, kept beside the weights for export.
        dropped: tensors left out because the caller said so.
        assumed: what the file does not say, in words.
    """

    out: str
    source: str
    kind: str
    model: dict[str, Any]
    contract: dict[str, Any]
    parameters: int
    merged_lora: int
    ignored: list[str]
    dropped: list[str]
    assumed: list[str]


@dataclass(frozen=True)
class Exported:
    """An exported file: its path, its number of tensors, and where the authors' code will differ from the model."""

    out: str
    kind: str
    tensors: int
    notes: list[str]


def import_released(
    source: str | Path,
    out: str | Path,
    *,
    encoder: str | None = None,
    tile_px: int | None = None,
    mpp: float | None = None,
    kind: str | None = None,
    tokenizer: str | Path | None = None,
    settings: Sequence[str] = (),
    drop: Sequence[str] = (),
    lora_alpha: float | None = None,
) -> Imported:
    """Make a checkpoint directory of a released checkpoint.

    Args:
        source: ``.safetensors``, or a pickle (``.bin``, ``.ckpt``, ``.pt``), or a folder of shards with their index.
        out: the directory to write.
        encoder, tile_px, mpp: the features it was trained on. All are needed: neither file nor paper's code says them.
        kind: ``published`` or ``perceiver``; None tells them apart by their parameters' names.
        tokenizer: folder of the tokenizer it was trained with; None: the model can encode slides but no words.
        settings: ``KEY=VALUE`` of the model's configuration, or of ``text.KEY`` and ``regions.KEY``.
        drop: beginnings of parameter names to leave out; anything else that is unknown is refused.
        lora_alpha: of unmerged LoRA; None reads ``adapter_config.json`` beside the file.

    Raises:
        CheckpointError: truncated or foreign, parameters missing, unknown or of another size (all named), not finite.
        ConfigError: a setting is unknown or out of range, or a size cannot be told from the file.
    """
    drop = as_texts(drop, "drop")
    source, assumed, chosen = Path(source), list[str](), read_settings(settings)
    tensors = plain_names(source, read_released(source))
    kind = kind_of(source, tensors, kind)
    tensors, merged = merge_adapters(source, tensors, kind, lora_alpha, assumed)
    config = configuration(kind, tensors, chosen["model"], assumed)
    with torch.device("meta"):  # names and sizes only: a huge or hostile file costs nothing here
        model: nn.Module = build_model(config)
    used, ignored, dropped = _fill(source, model, kind, tensors, drop)
    text, regions = reading_of(kind, config, chosen, assumed)
    contract = contract_of(source, encoder, config.feature_dim, tile_px, mpp)
    record = {
        "source": source.name,
        "sha256": digest(source),
        "assumed": assumed,
        "ignored": sorted(ignored),
        "dropped": dropped,
        "dtypes": {name: str(v.dtype)[6:] for name, v in used.items() if v.dtype in (torch.bfloat16, torch.float16)},
    }
    save_checkpoint(
        out,
        model,
        contract=contract,
        tokenizer=None if tokenizer is None else tokenizer_of(tokenizer, config.vocab_size, assumed),
        text=text,
        recipe={"name": f"released {kind}", "regions": regions.model_dump(mode="json"), "released": record},
        released={name: value.clone(memory_format=torch.contiguous_format) for name, value in ignored.items()},
    )
    return Imported(
        str(out), str(source), kind, config.model_dump(mode="json"), contract.model_dump(), len(used), merged,
        sorted(ignored), dropped, assumed,
    )  # fmt: skip


def export_released(model: str | Path, out: str | Path) -> Exported:
    """Write a model under the released parameter names, for the authors' code.

    Args:
        model: checkpoint directory of a ``published`` or ``perceiver`` model.
        out: ``.safetensors``, or ``.bin`` (a pickle of tensors, as the authors' code reads it).

    Raises:
        CheckpointError: not such a model, or the directory is damaged.
        ConfigError: ``out`` ends otherwise.
    """
    out = Path(out)
    if out.suffix not in (".safetensors", ".bin"):
        raise ConfigError(f"export: got '{out.name}', expected a file that ends in .safetensors or .bin")
    checkpoint = load_checkpoint(model)
    kind = str(checkpoint.config["model"].get("kind"))
    if kind not in KINDS:
        raise CheckpointError(
            f"{model}: a model of kind '{kind}' has no released counterpart; expected {' or '.join(KINDS)}"
        )
    record = checkpoint.config["recipe"].get("released", {})
    tensors, notes = to_published(checkpoint.model, kind), differences(kind, checkpoint.config["model"])
    tensors = {name: value for name, value in tensors.items() if name not in _OURS_ALONE}
    if not checkpoint.config["model"]["raw_logit_scale"]:
        tensors |= {name: value.exp() for name, value in tensors.items() if "logit_scale" in name}
        notes.append("logit scales are written exponentiated: the released code uses them as they are")
    for name, dtype in record.get("dtypes", {}).items():
        tensors[name] = tensors[name].to(getattr(torch, dtype))
    tensors |= _unused_tensors(checkpoint.path or Path(model), record.get("ignored", []))
    if kind == "published" and not any(name.startswith("Qformer.cls.") for name in tensors):
        notes.append(
            "without the masked-language head Qformer.cls.*, which has no part in alignment: load strict=False"
        )
    plain = {name: value.detach().contiguous() for name, value in sorted(tensors.items())}
    with atomic_path(out) as temporary:
        save_file(plain, temporary, metadata={"format": "pt"}) if out.suffix != ".bin" else torch.save(plain, temporary)
    return Exported(str(out), kind, len(plain), notes)


def _unused_tensors(folder: Path, names: Sequence[str]) -> dict[str, Tensor]:
    file = folder / "released.safetensors"
    if not names:
        return {}
    tensors: dict[str, Tensor] = load_tensors(file, load_file) if file.is_file() else {}
    missing = sorted(set(names) - set(tensors))
    if missing:
        raise CheckpointError(f"{file}: missing {named(missing)}, which stood in the imported file; import it again")
    return tensors


def _fill(
    source: Path, model: nn.Module, kind: str, tensors: Mapping[str, Tensor], drop: Sequence[str]
) -> tuple[dict[str, Tensor], dict[str, Tensor], list[str]]:
    """Put released parameters into the model: those used, those ignored on purpose, names of those dropped."""
    expected = {published_name(key, kind) for key in model.state_dict()}
    ignored = {name: value for name, value in tensors.items() if name not in expected and UNUSED.search(name)}
    unknown = set(tensors) - expected - set(ignored)
    idle = [start for start in drop if not any(name.startswith(start) for name in unknown)]
    if idle:
        raise ConfigError(f"drop: no unknown parameter begins with {', '.join(idle)}; unknown are {named(unknown)}")
    dropped = sorted(name for name in unknown if name.startswith(tuple(drop)))
    missing, unknown = expected - set(tensors), unknown - set(dropped)
    if missing or unknown:
        assistant = any(name.startswith(_ASSISTANT) for name in unknown)
        hint = "; it is a checkpoint of the assistant's stage: give the alignment stage's" if assistant else ""
        raise CheckpointError(
            f"{source}: not the parameters of this {kind} model: missing {named(missing)}; unknown {named(unknown)}"
            + (hint or ("; leave unknown ones out with --drop BEGINNING" if unknown and not missing else ""))
        )
    used = {name: tensors[name] for name in sorted(expected)}
    odd = [name for name, value in used.items() if not value.is_floating_point()]
    if odd:
        raise CheckpointError(f"{source}: not floating point: {named(odd)}; expected unquantised weights")
    bad = [name for name, value in used.items() if not torch.isfinite(value.float()).all()]
    if bad:
        raise CheckpointError(f"{source}: NaN or infinity in {named(bad)}; nobody should use such weights")
    try:
        ours = from_published(used, model, kind)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}; give the right size with --set KEY=VALUE") from None
    model.load_state_dict({key: value.float() for key, value in ours.items()}, assign=True)
    return used, ignored, dropped
