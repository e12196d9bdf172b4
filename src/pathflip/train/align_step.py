"""One step of alignment: a batch in, named losses out."""

from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pathflip.errors import ConfigError
from pathflip.train.train_step import TrainStep
from pathflip.types import AlignBatch, AlignOutput

__all__ = ["AlignStep"]


class AlignStep(TrainStep):
    """Encode both sides of a batch and compare them.

    Args:
        model: see :class:`~pathflip.types.AlignModel`. Its ``__call__`` must treat every slide and text on its own;
            whatever couples slides (batch statistics, contrasts) belongs in its ``losses``.
        chunk: gradient caching. 0 encodes the batch at once; n > 0 encodes n slides (with their texts) at a time,
            keeps only the embeddings, and encodes each chunk again, with the same dropout, when its gradient is due.
            Memory is that of n slides, the loss sees all of them, and the gradient is exact (Gao et al. 2021,
            "Scaling deep contrastive learning batch size under memory limited setup"). It costs one more forward.
        text_encoder: a pretrained text encoder that is trained along: (ids, mask) to the vectors that the model's
            pretrained path reads. It is no part of the model: the checkpoint holds it as a folder of its own.

    Raises:
        ConfigError: a chunked model holds batch normalisation, whose statistics would be those of a chunk.
    """

    def __init__(self, model: nn.Module, chunk: int = 0, text_encoder: nn.Module | None = None) -> None:
        super().__init__()
        if chunk < 0:
            raise ConfigError(f"grad_cache_chunk: got {chunk}, expected 0 (off) or the number of slides a chunk")
        coupled = [name for name, part in model.named_modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
        if chunk and coupled:
            raise ConfigError(
                f"grad_cache_chunk: the model normalises over the batch ({coupled[0]}), so chunks would change "
                "its result; expected grad_cache_chunk 0, or a model without batch normalisation"
            )
        self.model, self.chunk, self.text_encoder = model, chunk, text_encoder
        if text_encoder is not None:
            self.register_state_dict_post_hook(_drop_frozen_encoder)

    def forward(self, batch: AlignBatch) -> dict[str, Tensor]:
        """Named scalar losses; their sum is what training minimises."""
        if self.chunk and self.chunk < len(batch.slide_ids):
            output = self._encode_in_chunks(batch)
        else:
            output = self.model(self._with_vectors(batch))
        losses: dict[str, Tensor] = self.model.losses(output, batch)  # type: ignore[operator]
        return losses

    def _with_vectors(self, batch: AlignBatch) -> AlignBatch:
        """The batch with the vectors of the encoder that is trained along, of the texts that the model reads."""
        if self.text_encoder is None:
            return batch
        changes: dict[str, Tensor] = {}
        for what in ("caption", "sub_caption"):
            ids, mask = (getattr(batch, f"{what}_encoder_{part}") for part in ("ids", "mask"))
            if ids is not None:
                vectors = self.text_encoder(ids.flatten(0, -2), mask.flatten(0, -2))
                changes[f"{what}_vectors"] = vectors.unflatten(0, ids.shape[:-1])
        return replace(batch, **changes)  # type: ignore[arg-type]

    def _encode_in_chunks(self, batch: AlignBatch) -> AlignOutput:
        """Gradient caching by recomputation: autograd holds the embeddings of every chunk and the activations of one.

        Caching gradients by hand does the same arithmetic, but would run its second pass outside the forward that
        DDP and FSDP watch; recomputation stays inside, so gradients are averaged over processes as always.
        """
        parts = []
        for start in range(0, len(batch.slide_ids), self.chunk):
            rows = _rows(batch, start, start + self.chunk)
            names = [f.name for f in fields(rows) if isinstance(getattr(rows, f.name), Tensor)]

            # Tensors go in as arguments: that is how checkpoint() learns which device's random state to replay.
            def encode(*tensors: Tensor, rows: AlignBatch = rows, names: list[str] = names) -> AlignOutput:
                fields_of_rows: dict[str, Any] = dict(zip(names, tensors, strict=True))
                output: AlignOutput = self.model(self._with_vectors(replace(rows, **fields_of_rows)))
                return output

            parts.append(checkpoint(encode, *(getattr(rows, name) for name in names), use_reentrant=False))
        joined: AlignOutput = AlignOutput.cat(parts)
        return joined

    @torch.no_grad()
    def suspects(self, batch: AlignBatch, encode: bool = True) -> dict[str, str]:
        """Slides that make a loss non-finite, each with where it shows: in its features or in its embedding.

        Args:
            batch: the batch whose loss was not finite.
            encode: also look at the embeddings, if the features are clean.
        """
        reasons = _non_finite(batch, batch.slide_ids, "its features")
        if not reasons and encode:
            reasons = _non_finite(self.model(self._with_vectors(batch)), batch.slide_ids, "its embedding")
        return reasons


def _drop_frozen_encoder(step: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """A training state need not hold what of the text encoder never moves."""
    for name, parameter in step.named_parameters(prefix=prefix.removesuffix("."), remove_duplicate=False):
        if ".text_encoder." in f".{name}" and not parameter.requires_grad:
            state.pop(name, None)


def _rows(batch: AlignBatch, start: int, stop: int) -> AlignBatch:
    """Some slides of a batch; padding stays as wide as the whole batch's."""
    whole: dict[str, Any] = {f.name: getattr(batch, f.name) for f in fields(batch)}
    cut: dict[str, Any] = {name: None if value is None else value[start:stop] for name, value in whole.items()}
    return AlignBatch(**cut)


def _non_finite(tensors: AlignBatch | AlignOutput, slide_ids: tuple[str, ...], where: str) -> dict[str, str]:
    """Rows that hold NaN or infinity in any floating-point field, by slide id."""
    reasons: dict[str, str] = {}
    for f in fields(tensors):
        value = getattr(tensors, f.name)
        if isinstance(value, Tensor) and value.is_floating_point():
            bad = ~torch.isfinite(value).flatten(1).all(1)
            reasons |= {slide_ids[row]: f"{where} ({f.name})" for row in bad.nonzero()[:, 0].tolist()}
    return reasons
