"""Train an alignment model: features and captions in, a run directory with checkpoints and metrics out."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from pathflip.arguments import Paths, as_paths, refuse_text
from pathflip.checkpoint import Checkpoint, InputContract, save_checkpoint
from pathflip.data.align import AlignDataset, TextSpec
from pathflip.data.case_items import Item, by_part, name_digest, pair_reports, with_findings
from pathflip.data.packed import PackedStore, open_store, pack_features
from pathflip.data.packed.packed_store import StoreSettings
from pathflip.data.packed.slide_file import DType
from pathflip.data.patches import PatchReader
from pathflip.data.regions import RegionSpec
from pathflip.data.splits import read_split
from pathflip.errors import ConfigError, FeatureError, MissingExtraError
from pathflip.evaluate import metrics
from pathflip.features.store import check_cohort
from pathflip.inference import Aligned, EncodedCase, EncodedSlide, encode_files, retrieve
from pathflip.io.slide_id import slide_id
from pathflip.io.storage import local_path
from pathflip.models import build_model
from pathflip.models.cpu import accelerate_for_cpu
from pathflip.published.bert_start import start_from_bert
from pathflip.text.pretrained import KNOWN, PretrainedText, open_pretrained_text, text_encoder_folder
from pathflip.text.privacy import identifier_note, without_private_words
from pathflip.text.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from pathflip.train import (
    AlignStep,
    BatchSampler,
    Evaluator,
    SampledBatches,
    Save,
    TrainConfig,
    TrainResult,
    fit,
)
from pathflip.train.run_folder import digest_of
from pathflip.train.text_encoder import stored_text_encoder, trained_text_encoder
from pathflip.train.training_texts import training_texts_known
from pathflip.train.warm_start import WarmStart, open_start, start_from
from pathflip.types import Caption, Case

__all__ = ["AlignRecipe", "feature_statistics", "read_split", "train_align"]


class AlignRecipe(BaseModel):
    """Everything an alignment run needs beside the data.

    Attributes:
        name: of the recipe, written into the checkpoint.
        model: ``kind`` and the fields of that model's configuration; ``feature_dim`` and ``vocab_size`` come from
            the data.
        text: how captions become batches.
        max_patches: patches drawn a slide and step, a seeded subset; None takes all.
        regions: how patches form regions, for the published model; None: it reads none. max_regions: regions drawn a
            slide and step, instead of patches.
        tokenizer: folder (or cached name) of a Hugging Face tokenizer; empty trains one on the cohort's captions,
            with ``vocab_size`` word pieces.
        bert: folder of a BERT (or a name of ``pathflip.text.pretrained.KNOWN``) whose weights, and tokenizer where none
            is named, the text layers of a published model begin with; empty: random ones.
        train: the loop's settings.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    model: dict[str, Any]
    text: TextSpec = TextSpec()
    max_patches: int | None = Field(None, ge=1)
    regions: RegionSpec | None = None
    max_regions: int | None = Field(None, ge=1)
    tokenizer: str = ""
    bert: str = ""
    vocab_size: int = Field(2000, ge=64)
    train: TrainConfig = TrainConfig()


def train_align(
    recipe: AlignRecipe,
    files: Paths,
    captions: Sequence[Caption],
    out: Path,
    *,
    val_files: Paths = (),
    val_captions: Sequence[Caption] = (),
    store: str | Path | None = None,
    store_dtype: DType | None = None,
    start: str | Path | None = None,
    resume: bool = False,
    note: str = "",
    allow_missing: bool = False,
    on_step: Callable[[Mapping[str, float]], None] | None = None,
    on_pack: Callable[[int, int], None] | None = None,
) -> TrainResult:
    """Train an alignment model and leave ``out/last`` (and ``out/best``), metrics and a resumable state.

    The features are packed first, so that a step reads only the patches it draws (:mod:`pathflip.data.packed`).

    Args:
        recipe: what to train.
        files: feature files of the training slides. captions: theirs, or cases of several slides.
        allow_missing: pass over files without a caption and captions without files, with a warning that counts them.
        val_files, val_captions: slides to retrieve on during training; with them, ``best/`` is kept by mean R@1.
        store: the training store, made here where it is not there yet; several runs may share one. None keeps it
            in ``out/packed``.
        store_dtype: number format of a new store; None takes float16.
        start: a checkpoint (an imported one, too) or run whose weights the new model begins with, where names and
            shapes agree; its tokenizer too, unless the recipe names one. What is left out is said in a warning.
        resume, on_step: see :func:`pathflip.train.fit`.
        on_pack: called with (slides packed, slides).
        note: a caution kept in the checkpoint and printed on every picture made with it.

    Raises:
        CaptionError, FeatureError, ContractError: the data do not fit together (slides of several kinds, say), or
            not to ``start``.
        ConfigError, OutputError: the store is of other features or another version, or cannot be written.
        TrainingError: see :func:`pathflip.train.fit`.
    """
    refuse_text(captions, "captions", "a list of captions, as read_captions gives it")
    files, val_files = as_paths(files, "files"), as_paths(val_files, "val_files")
    if not files:
        raise ConfigError(f"train: got no feature file for {len(captions)} captions; expected one a training slide")
    contract = InputContract.of(check_cohort([*files, *val_files]))
    parts = _parts_of(recipe, contract, captions, start)
    recipe, model = parts.recipe, parts.model
    items = pair_reports(files, captions, allow_missing)  # what does not match is told before hours of packing
    slides, captions = [one for item in items for one in item.files], [item.caption for item in items]
    if line := identifier_note(caption.text for caption in captions):
        warnings.warn(line, stacklevel=2)
    context = store is not None or model.reads_context  # others that share a store may read it
    reader = _packed(slides, store or Path(out) / "packed", store_dtype, recipe.regions, context, on_pack)
    data = _dataset(parts, slides, captions, reader)
    _set_statistics(parts, data)
    config, evaluators = recipe.train, {}
    if val_files:
        held = with_findings(by_part(pair_reports(val_files, val_captions, allow_missing)), "validation")
        evaluators["val"] = _validation(recipe, parts.tokenizer, contract, parts.pretrained, held)
        config = config if config.best else config.model_copy(update={"best": "val/mean_r1"})
    return fit(
        AlignStep(model, config.grad_cache_chunk, trained_text_encoder(parts.pretrained, recipe.text, config.seed)),
        SampledBatches(data.batch, BatchSampler(len(data), config.batch_size, config.seed), config.seed),
        config=config,
        out=Path(out),
        evaluators=evaluators,
        save=_saver(parts, data, _what_was_run(parts, data, len(slides), note)),
        resume=resume,
        on_step=on_step,
        data=_digests(parts, slides, captions, reader.digest()),
    )


@dataclass(frozen=True)
class _Parts:
    """What a run is made of but its slides. ``recipe`` knows the text encoder's width and digest, ``begun`` says which
    weights of ``start`` the model holds."""

    recipe: AlignRecipe
    contract: InputContract
    tokenizer: Tokenizer
    pretrained: PretrainedText | None
    model: Any
    begun: WarmStart | None


def _parts_of(
    recipe: AlignRecipe, contract: InputContract, captions: Sequence[Caption], start: str | Path | None
) -> _Parts:
    """Tokenizer, text encoder and model, the model with the weights it begins with."""
    before = open_start(start, contract) if start is not None else None
    tokenizer = _tokenizer(recipe, captions, before)
    recipe, pretrained = _with_text_encoder(recipe)
    model = _build(recipe, contract.dim, tokenizer.vocab_size)
    if recipe.bert:
        start_from_bert(model, _bert_folder(recipe))
    begun = _begun(model, before, tokenizer, recipe, pretrained)
    if getattr(model, "known_texts", None) is not None:
        model.known_texts.forget()  # those of a start are of other reports
    if model.reads_regions and recipe.regions is None:
        raise ConfigError(f"recipe {recipe.name}: this model reads regions, got none; expected --set regions.side=N")
    return _Parts(recipe, contract, tokenizer, pretrained, model, begun)


def _dataset(parts: _Parts, slides: Sequence[Path], captions: Sequence[Caption], reader: PatchReader) -> AlignDataset:
    """Slides and reports as the model reads them."""
    recipe, model = parts.recipe, parts.model
    return AlignDataset(
        slides,
        captions,
        parts.tokenizer,
        text=recipe.text,
        reader=reader,
        max_patches=recipe.max_patches,
        regions=recipe.regions is not None,
        max_regions=recipe.max_regions,
        context=model.reads_context,
        pretrained=parts.pretrained,
        caption_vectors=not model.captions_are_sub_captions,
    )


def _set_statistics(parts: _Parts, data: AlignDataset) -> None:
    """Mean and spread of features and text vectors into the model; weights that were taken over know their own."""
    begun, model = parts.begun, parts.model
    if begun is None or not begun.has("feature_mean"):
        mean, std = feature_statistics(data, parts.recipe.train.seed)
        model.set_feature_statistics(torch.from_numpy(mean), torch.from_numpy(std))
    if parts.pretrained is not None and (begun is None or not begun.has("vector_mean")):
        model.set_text_statistics(parts.pretrained.embed(data.encoded_texts()))


def _what_was_run(parts: _Parts, data: AlignDataset, num_slides: int, note: str) -> dict[str, Any]:
    """What a checkpoint tells of its training: recipe, note, slides and patients by digest, the start."""
    record = {**parts.recipe.model_dump(mode="json"), "note": note, "num_slides": num_slides}
    record["trained_on"] = _trained_on(data.items)
    return record if parts.begun is None else {**record, "start": parts.begun.record()}


def _saver(parts: _Parts, data: AlignDataset, what_was_run: Mapping[str, Any]) -> Save:
    """Writes a checkpoint of the run's model, with its text encoder where that was trained or shall be stored."""
    text, pretrained = parts.recipe.text, parts.pretrained
    more: dict[str, Any] = {"tokenizer": parts.tokenizer, "text": text}
    if pretrained is not None and (text.pretrained_train != "frozen" or text.pretrained_stored):
        more["text_encoder"] = lambda folder: stored_text_encoder(pretrained, folder, text)

    def save(path: Path, numbers: Mapping[str, float]) -> None:
        with training_texts_known(parts.model, parts.tokenizer, text, pretrained, data.trained_texts):
            save_checkpoint(path, parts.model, contract=parts.contract, recipe=what_was_run, metrics=numbers, **more)

    return save


def _digests(parts: _Parts, slides: Sequence[Path], captions: Sequence[Caption], contents: str) -> dict[str, str]:
    """Digests of what the run learns from; it goes on with no other."""
    return {
        "captions": digest_of([_identity(caption) for caption in captions]),
        "tokenizer": digest_of(parts.tokenizer.backend.to_str()),
        "feature files": digest_of(sorted(file.name for file in slides)),
        "contents of the feature files": contents,
        **({} if parts.begun is None else {"weights of --start": parts.begun.digest}),
    }


def _packed(
    files: Sequence[Path],
    store: str | Path,
    dtype: DType | None,
    regions: RegionSpec | None,
    context: bool,
    progress: Callable[[int, int], None] | None,
) -> PackedStore:
    """The training store, brought up to date. Of several processes one packs, and the others wait for it.

    Raises:
        FeatureError: feature files that cannot be packed: the first, and how many more.
    """
    there = StoreSettings.read(local_path(store))
    outcomes = pack_features(files, store, dtype=dtype, context=context if there is None else None, progress=progress)
    failed = [one for one in outcomes if one.status == "failed"]
    if failed:
        more = f" (and {len(failed) - 1} more of {len(outcomes)} feature files)" if len(failed) > 1 else ""
        raise FeatureError(f"{failed[0].message}{more}; mend them or leave them out: nothing packed is lost")
    return open_store(store, files, regions)


def _tokenizer(recipe: AlignRecipe, captions: Sequence[Caption], before: Checkpoint | None) -> Tokenizer:
    if recipe.tokenizer or recipe.bert:
        return load_tokenizer(recipe.tokenizer or _bert_folder(recipe))
    if before is not None and before.tokenizer is not None:
        own: Tokenizer = before.tokenizer
        return own
    return train_tokenizer(_words(captions, recipe.text), recipe.vocab_size)


def _bert_folder(recipe: AlignRecipe) -> Path:
    return text_encoder_folder(recipe.bert) if recipe.bert in KNOWN else Path(recipe.bert).expanduser()


def _begun(
    model: nn.Module,
    before: Checkpoint | None,
    tokenizer: Tokenizer,
    recipe: AlignRecipe,
    pretrained: PretrainedText | None,
) -> WarmStart | None:
    """The model with an earlier one's weights, and a warning that says what was left out."""
    if before is None:
        return None
    had = before.tokenizer
    same_words = bool(recipe.tokenizer) if had is None else had.backend.to_str() == tokenizer.backend.to_str()
    digest = (before.config.get("text") or {}).get("pretrained_digest")
    same_text_encoder = pretrained is not None and digest == pretrained.digest
    begun = start_from(model, before, same_words=same_words, same_text_encoder=same_text_encoder)
    if len(begun.loaded) < len(model.state_dict()):
        warnings.warn(begun.line, stacklevel=4)
    return begun


def _with_text_encoder(recipe: AlignRecipe) -> tuple[AlignRecipe, PretrainedText | None]:
    """The recipe's pretrained text encoder, opened, and the recipe with its width and the digest of its weights.

    An encoder that a Python package carries and that is not installed is left out, with a warning: the text tower is
    then trained from scratch.
    """
    if not recipe.text.pretrained:
        return recipe, None
    try:
        pretrained = open_pretrained_text(recipe.text.pretrained)
    except MissingExtraError as error:
        warnings.warn(
            f"{error}. Training goes on without: wording that no report uses will not be understood", stacklevel=4
        )
        return recipe.model_copy(update={"text": recipe.text.model_copy(update={"pretrained": ""})}), None
    path = {**recipe.model.get("pretrained", {}), "width": pretrained.width}
    text = recipe.text.model_copy(update={"pretrained_digest": pretrained.digest})
    return recipe.model_copy(update={"model": {**recipe.model, "pretrained": path}, "text": text}), pretrained


class _EncodedOnDemand(Sequence[EncodedSlide | EncodedCase]):
    """Slides and cases that are read and encoded when they are asked for, and not kept."""

    def __init__(self, model: Aligned, items: Sequence[Item]) -> None:
        self.model, self.items = model, items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, place: Any) -> Any:
        return encode_files(self.model, self.items[place].files, self.items[place].name)


def _identity(caption: Caption) -> list[Any]:
    """What of a report decides a run."""
    slides = [[one.slide_id for one in caption.slides]] if isinstance(caption, Case) else []
    return [caption.slide_id, caption.text, [one.content for one in caption.sub_captions], *slides]


def _trained_on(items: Sequence[Item]) -> dict[str, list[str]]:
    """Slides and patients by digest: ``pathflip eval`` says where it is given them again."""
    slides = {slide_id(file) for item in items for file in item.files}
    patients = {item.caption.patient for item in items}
    return {"slides": sorted(map(name_digest, slides)), "patients": sorted(map(name_digest, patients))}


def _validation(
    recipe: AlignRecipe,
    tokenizer: Tokenizer,
    contract: InputContract,
    pretrained: PretrainedText | None,
    items: Sequence[Item],
) -> Evaluator:
    """Retrieval among the validation slides and cases, both ways; equal reports are all right answers."""
    texts = [item.caption.text for item in items]
    same = metrics.positives_from_keys(texts, texts)

    def evaluate(trained: nn.Module) -> dict[str, float]:
        device = next(trained.parameters()).device
        if pretrained is not None and recipe.text.pretrained_train != "frozen":
            pretrained.forget()
        model = Aligned(Checkpoint(trained, tokenizer, contract, {}), recipe.text, recipe.regions, device, pretrained)
        # Read anew each time, one after the other: features of a whole validation split need not fit in memory.
        retrieval = retrieve(model, _EncodedOnDemand(model, items), texts)
        to_text = metrics.recall_at_k(retrieval.scores, 1, same)
        to_slide = metrics.recall_at_k(retrieval.scores.T, 1, same)
        return {"text_r1": to_text, "slide_r1": to_slide, "mean_r1": (to_text + to_slide) / 2}

    return evaluate


def _words(captions: Sequence[Caption], text: TextSpec) -> list[str]:
    """What the tokenizer is trained on: captions, and sub-captions as the text encoder will see them; no names."""
    reports = [[c.text, *(s.content for s in c.sub_captions if text.polarity and not s.undecided)] for c in captions]
    return without_private_words(reports)


def _build(recipe: AlignRecipe, feature_dim: int, vocab_size: int) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.train.seed)
        return accelerate_for_cpu(build_model({**recipe.model, "feature_dim": feature_dim, "vocab_size": vocab_size}))


def feature_statistics(data: AlignDataset, seed: int, num_slides: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of every feature over the patches of (a seeded sample of) the training slides."""
    chosen = np.random.default_rng(seed).permutation(len(data))[:num_slides]
    parts = [data.reader.sums(file) for item in sorted(chosen) for file in data.items[item].files]
    count = sum(part.count for part in parts)
    zeros = np.zeros(len(parts[0].total))
    total, square = sum((part.total for part in parts), zeros), sum((part.squares for part in parts), zeros)
    mean = total / count
    return mean.astype(np.float32), np.sqrt(np.maximum(square / count - mean**2, 0)).astype(np.float32)
