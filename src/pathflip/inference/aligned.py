"""Open a trained alignment model: the network with the words and the features it understands."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import torch

from pathflip.checkpoint import Checkpoint, caution_of, load_checkpoint
from pathflip.data.align import TextSpec
from pathflip.data.regions import RegionSpec
from pathflip.features.devices import device_named
from pathflip.models.cpu import accelerate_for_cpu
from pathflip.text.known_words import holds_no_known_word
from pathflip.text.pretrained import PretrainedText, open_pretrained_text
from pathflip.types import AlignModel, TextCode

__all__ = ["Aligned", "load"]


@dataclass(frozen=True, eq=False)
class Aligned:
    """A trained model with the words and features it understands.

    ``pretrained`` is the text encoder beside the model's own, for models that have such a path. ``text_codes`` holds
    the codes of lists of texts that every slide is compared with (:func:`pathflip.verify.heatmaps.encoded_once`).
    """

    checkpoint: Checkpoint
    text: TextSpec
    regions: RegionSpec | None
    """How tiles form regions, for models that read these."""
    device: torch.device
    pretrained: PretrainedText | None = None
    text_codes: dict[tuple[str, ...], TextCode] = field(default_factory=dict, init=False, repr=False)

    @property
    def net(self) -> AlignModel:
        """The model itself."""
        return cast(AlignModel, self.checkpoint.model)

    def knows_no_word_of(self, text: str) -> bool:
        """Whether no word of the text stood in a training text. The score of such a text means nothing.

        False for models whose training words are not known: released ones, and those trained before they were kept.
        """
        return holds_no_known_word(text, self.checkpoint.tokenizer.words)

    @property
    def note(self) -> str:
        """What every picture and page made with this model must say."""
        return caution_of(self.checkpoint.config)


def load(path: str | Path, device: str | torch.device | None = None) -> Aligned:
    """Open a checkpoint directory written by training, ready to use.

    Raises:
        CheckpointError: missing, damaged or foreign, or its pretrained text encoder has other weights now.
        ConfigError: its pretrained text encoder is not installed.
    """
    chosen = device_named(device)
    checkpoint = load_checkpoint(Path(path))
    accelerate_for_cpu(checkpoint.model.to(chosen).eval().requires_grad_(False))
    stored = checkpoint.config["recipe"].get("regions")
    regions = None if stored is None else RegionSpec(**stored)
    text = TextSpec(**checkpoint.config["text"])
    own = checkpoint.path / "text_encoder" if checkpoint.path is not None else None
    source = str(own) if own is not None and own.is_dir() else text.pretrained
    pretrained = open_pretrained_text(source, text.pretrained_digest or None) if source else None
    return Aligned(checkpoint, text, regions, chosen, pretrained)
