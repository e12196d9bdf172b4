"""The assistant: visual tokens of slides, projected into a causal language model's own space, among its words.

The alignment model is not a part of it: measuring a slide (:mod:`pathflip.models.measurements`) needs no gradient and
is done once.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from pydantic import AliasChoices, BaseModel, ConfigDict, Field
from torch import Tensor, nn

from pathflip.models.measurements import NUM_KINDS, NUM_NUMBERS
from pathflip.types import IGNORED, InstructBatch

__all__ = ["Assistant", "AssistantConfig", "Projector", "attention_bias"]


ROWS_AT_ONCE = 64


class AssistantConfig(BaseModel):
    """What is shown to the language model, and how.

    Attributes:
        embed_dim: E of the alignment model.
        projector_width: hidden width of the measured numbers' branch.
        num_patches: patches shown a slide, at most.
        max_texts: texts looked for on a slide, at most. probes: texts looked for beside the question where it has no
            options, so that a caption can speak of what nobody asked for.
        tiles_per_text: tiles kept as evidence of each text.
        max_tokens: visual tokens of a conversation, over all its slides.
        text_only: show the texts that are looked for and nothing of the slide: the baseline an assistant must beat.
        vector_noise: standard deviation of Gaussian noise on the vectors in training.
        vector_dropout: fraction of visual tokens whose vector is left out in training (their numbers stay).
        option_loss: weight of a second loss that reads the right option off the visual tokens themselves
            (:meth:`Assistant.option_loss`): a projector learns from it in a few hundred steps what it learns late
            through a small language model. 0: none, as published.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["assistant"] = "assistant"
    embed_dim: int = Field(ge=1)
    projector_width: int = Field(256, ge=1)
    num_patches: int = Field(128, ge=0)
    max_texts: int = Field(64, ge=1)
    probes: tuple[str, ...] = ()
    tiles_per_text: int = Field(8, ge=1)
    max_tokens: int = Field(400, ge=3)
    text_only: bool = Field(False, validation_alias=AliasChoices("text_only", "blind"))  # "blind" in older checkpoints
    vector_noise: float = Field(0.0, ge=0)
    vector_dropout: float = Field(0.0, ge=0, lt=1)
    option_loss: float = Field(0.0, ge=0)


class Projector(nn.Module):
    """Visual tokens to the language model's width H, at the size of its word embeddings.

    Linear maps of the pooled patches and of the text looked for, a small network on that text and what was measured
    (standardised by the training set), and a learned mark for the kind of token.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: AssistantConfig, llm_width: int, embedding_rms: float = 0.02) -> None:
        super().__init__()
        self.vector_noise, self.vector_dropout = config.vector_noise, config.vector_dropout
        self.register_buffer("mean", torch.zeros(NUM_KINDS, NUM_NUMBERS))
        self.register_buffer("std", torch.ones(NUM_KINDS, NUM_NUMBERS))
        self.vector = nn.Linear(config.embed_dim, llm_width)
        self.text = nn.Linear(config.embed_dim, llm_width, bias=False)
        measured = nn.Linear(config.projector_width, llm_width)
        self.numbers = nn.Sequential(
            nn.Linear(NUM_NUMBERS + config.embed_dim, config.projector_width), nn.GELU(), measured
        )
        self.kind = nn.Embedding(NUM_KINDS, llm_width)
        self.norm = nn.RMSNorm(llm_width, eps=1e-6)
        nn.init.constant_(self.norm.weight, embedding_rms)
        with torch.no_grad():  # what was measured must be heard among the many entries of the vectors
            self.vector.weight *= 0.3
            self.text.weight *= 0.5
            measured.weight *= 3.0

    def forward(
        self,
        vectors: Float[Tensor, "V E"],
        text_vectors: Float[Tensor, "V E"],
        numbers: Float[Tensor, "V F"],
        kind: Int[Tensor, " V"],
    ) -> Float[Tensor, "V H"]:
        """One embedding a token."""
        if self.training and self.vector_noise:
            vectors = vectors + self.vector_noise * torch.randn_like(vectors)
        if self.training and self.vector_dropout:
            vectors = vectors * (torch.rand_like(vectors[:, :1]) >= self.vector_dropout)
        standard = ((numbers - self.mean[kind]) / self.std[kind]).clamp(-8, 8)
        return self.norm(
            self.vector(vectors)
            + self.text(text_vectors)
            + self.numbers(torch.cat([standard, text_vectors], dim=-1))
            + self.kind(kind)
        )

    @torch.no_grad()
    def set_statistics(self, numbers: Float[Tensor, "V F"], kind: Int[Tensor, " V"]) -> None:
        """Standardise the numbers of each kind of token by those of the training set (kept in the checkpoint).

        A kind that an earlier stage met keeps its statistics: the projector was trained with them.
        """
        for number in range(NUM_KINDS):
            met = bool((self.mean[number] != 0).any() or (self.std[number] != 1).any())
            if not met and (kind == number).sum() > 1:
                own = numbers[kind == number]
                self.mean[number] = own.mean(0)
                deviation = own.std(0)
                self.std[number] = torch.where(deviation > 1e-5, deviation, torch.ones_like(deviation))


class Assistant(nn.Module):
    """A projector before a language model.

    Args:
        config: what is shown.
        lm: any ``transformers`` causal language model. It is used as it is: freeze it, add LoRA or quantise it before.
        letter_ids: its tokens for the letters of options. A visual token that belongs to an option carries the
            letter's own embedding, so that the two need not be associated by training.
    """

    letter_ids: Tensor

    def __init__(self, config: AssistantConfig, lm: Any, letter_ids: Sequence[int]) -> None:
        super().__init__()
        self.config = config
        self.lm = lm
        self.register_buffer("letter_ids", torch.tensor(list(letter_ids)), persistent=False)
        words = lm.get_input_embeddings().weight
        rms = float(words.detach().float().square().mean().sqrt()) if words.is_floating_point() else 0.02
        width = lm.config.get_text_config().hidden_size
        self.projector = Projector(config, width, rms or 0.02)
        self.option_score = nn.Linear(width, 1, bias=False) if config.option_loss else None
        """Used in training alone."""

    def embed(self, batch: InstructBatch) -> Float[Tensor, "B T H"]:
        """Words and visual tokens in the language model's space."""
        words = self.lm.get_input_embeddings()(batch.ids)
        return self._placed(batch, words, self._seen(batch)) if len(batch.vectors) else words

    def _seen(self, batch: InstructBatch) -> Float[Tensor, "V H"]:
        """Visual tokens in the language model's space."""
        return self.projector(batch.vectors, batch.text_vectors, batch.numbers, batch.kind)

    def _placed(
        self, batch: InstructBatch, words: Float[Tensor, "B T H"], seen: Float[Tensor, "V H"]
    ) -> Float[Tensor, "B T H"]:
        """Visual tokens among words, each option's with the embedding of its letter."""
        seen, table = seen.to(words.dtype), self.lm.get_input_embeddings()
        letters = table(self.letter_ids[(batch.slot - 1).clamp(min=0)])
        seen = seen + torch.where((batch.slot > 0)[:, None], letters, 0)
        place = batch.visual >= 0
        return torch.where(place[..., None], seen[batch.visual.clamp(min=0)], words)

    def forward(self, batch: InstructBatch) -> Float[Tensor, " G"]:
        """Mean cross-entropy over the learned tokens of each of the batch's G conversations.

        Only positions that predict a learned token go through the last feed-forward layer and the vocabulary's head.
        """
        return self._answer_loss(batch, self.embed(batch))

    def losses(self, batch: InstructBatch) -> dict[str, Tensor]:
        """What training adds up: "answer", the mean over conversations, and "option" where the settings ask for it."""
        if self.option_score is None or not len(batch.vectors):
            return {"answer": self(batch).mean()}
        words, seen = self.lm.get_input_embeddings()(batch.ids), self._seen(batch)
        answer = self._answer_loss(batch, self._placed(batch, words, seen)).mean()
        return {"answer": answer, "option": self.config.option_loss * self.option_loss(batch, seen)}

    def option_loss(self, batch: InstructBatch, seen: Float[Tensor, "V H"]) -> Float[Tensor, ""]:
        """Cross-entropy of the right option among the options' visual tokens; 0 for a conversation without options.

        An option's score is the mean of a linear function over its tokens. What it takes to tell the right option (is
        it there, where, on how much) thereby stands in the tokens before the language model has learned to look.
        """
        assert self.option_score is not None
        count = int(batch.conversation.max()) + 1
        place = batch.visual >= 0
        owner = batch.slot.new_zeros(len(seen)).index_put((batch.visual[place],), batch.conversation[place])
        of_option = batch.slot > 0
        cell = owner[of_option] * len(self.letter_ids) + batch.slot[of_option] - 1
        cells = seen.new_zeros(count * len(self.letter_ids))
        score = cells.index_add(0, cell, self.option_score(seen[of_option])[:, 0].to(cells.dtype))
        number = cells.index_add(0, cell, torch.ones_like(cell, dtype=cells.dtype))
        logits = (score / number.clamp(min=1)).masked_fill(number == 0, -torch.inf).view(count, -1)
        right = self._right_option(batch, count)
        asked = (right >= 0) & logits.gather(1, right.clamp(min=0)[:, None])[:, 0].isfinite()
        # Over all conversations, so that several processes with as many each give the mean of one that has them all.
        return F.cross_entropy(logits[asked], right[asked], reduction="sum") / count

    def _right_option(self, batch: InstructBatch, count: int) -> Int[Tensor, " G"]:
        """Number of the option whose letter each conversation learns, -1 where it learns none."""
        letter = (batch.labels[..., None] == self.letter_ids).int()
        rows, columns = letter.any(-1).nonzero(as_tuple=True)
        return letter.new_full((count,), -1, dtype=torch.long).index_put(
            (batch.conversation[rows, columns],), letter[rows, columns].argmax(-1)
        )

    def _answer_loss(self, batch: InstructBatch, embeds: Float[Tensor, "B T H"]) -> Float[Tensor, " G"]:
        target = F.pad(batch.labels[:, 1:], (0, 1), value=IGNORED)
        wanted = (target != IGNORED).any(0).nonzero()[:, 0]
        with _last_feed_forward_at(self.lm, target != IGNORED):
            logits = self.lm(
                inputs_embeds=embeds,
                attention_mask=attention_bias(batch.conversation, self.lm.dtype),
                position_ids=batch.position_ids,
                logits_to_keep=wanted,
                use_cache=False,
            ).logits
        target, owner = target[:, wanted], batch.conversation[:, wanted]
        learned = target != IGNORED
        each = F.cross_entropy(logits[learned].float(), target[learned], reduction="none")
        count = int(batch.conversation.max()) + 1
        owner = owner[learned]
        total = each.new_zeros(count).index_add(0, owner, each)
        return total / each.new_zeros(count).index_add(0, owner, torch.ones_like(each)).clamp(min=1)

    def next_logits(self, batch: InstructBatch) -> Float[Tensor, "B vocabulary"]:
        """Logits of the token that follows each row (one conversation a row)."""
        last = (batch.conversation >= 0).sum(1) - 1
        wanted, place = last.unique(return_inverse=True)
        logits = self.lm(
            inputs_embeds=self.embed(batch),
            attention_mask=attention_bias(batch.conversation, self.lm.dtype),
            position_ids=batch.position_ids,
            logits_to_keep=wanted,
            use_cache=False,
        ).logits
        chosen: Tensor = logits[torch.arange(len(last), device=last.device), place]
        return chosen


@contextmanager
def _last_feed_forward_at(lm: Any, wanted: Bool[Tensor, "B T"]) -> Iterator[None]:
    """While this lasts, the last layer's feed-forward network runs at the positions wanted alone.

    What it gives elsewhere nobody reads: no layer follows, and logits are taken at these positions. In a small model
    that learns one letter a question it is a third of all work.
    """
    decoder = lm.get_decoder() if hasattr(lm, "get_decoder") else None
    layers: Any = getattr(decoder, "layers", None)
    network = getattr(layers[-1], "mlp", None) if layers else None
    dense = type(network).__name__.endswith("MLP")  # not of experts, which return more than a tensor
    # A checkpointed layer runs again in the backward pass, when this is over.
    again = getattr(layers[-1], "gradient_checkpointing", False) if layers else False
    if network is None or not dense or again or torch.compiler.is_compiling():
        yield
        return
    whole, flags = network.forward, wanted.flatten()
    # Whole blocks of rows: oneDNN keeps a program, and memory for it, for every number of rows it has met.
    rows, others = flags.nonzero()[:, 0], (~flags).nonzero()[:, 0]
    rows = torch.cat([rows, others[: -len(rows) % ROWS_AT_ONCE]])

    def forward(states: Tensor) -> Tensor:
        flat = states.flatten(0, 1)
        out = whole(flat.index_select(0, rows)[None])[0].to(states.dtype)
        return torch.zeros_like(flat).index_copy(0, rows, out).view_as(states)

    network.forward = forward
    try:
        yield
    finally:
        del network.forward


def attention_bias(conversation: Int[Tensor, "B T"], dtype: torch.dtype) -> Float[Tensor, "B 1 T T"]:
    """What to add to attention logits: 0 within a conversation up to a token itself, the lowest number elsewhere.

    Padding sees itself, so that its softmax is a number.
    """
    length = conversation.shape[1]
    same = conversation[:, :, None] == conversation[:, None, :]
    earlier = torch.ones(length, length, dtype=torch.bool, device=conversation.device).tril()
    seen: Bool[Tensor, "B T T"] = same & earlier
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, torch.finfo(dtype).min)[:, None]
