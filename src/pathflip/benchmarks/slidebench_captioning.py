"""SlideBench captioning: a report a slide, asked for by the prompt in the file's own Question column.

BLEU-1 to 4, METEOR, ROUGE-L and CIDEr as pycocoevalcap counts them. One constant caption an organ, made without a
slide, beats published systems in BLEU-1; so every measure is given with its skill over that: (score - constant) /
(best possible - constant). Chen et al. 2024, arXiv 2410.11761.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pathflip.assistant import build_prompt, generate, load_assistant, prepare_slide
from pathflip.benchmarks.measured import paired_row
from pathflip.benchmarks.protocol import Inputs, Outcome, Protocol, Published, Score, Skipped
from pathflip.benchmarks.slide_files import allow_missing_or_raise, feature_files, open_model
from pathflip.benchmarks.test_sets import KnownSet, recognise
from pathflip.data.instruct import CAPTION_PROMPTS
from pathflip.errors import CaptionError, ConfigError, FeatureError
from pathflip.evaluate.captioning import are_references, caption_measures, read_generated
from pathflip.features import read_features
from pathflip.inference import encode_slide
from pathflip.io.slide_id import join_ids
from pathflip.io.tables import first_of, read_table
from pathflip.text.captions import TEXT_KEYS, read_captions, slide_of_row
from pathflip.text.case_tables import SLIDE_KEYS, case_of_row, case_slides_of_row
from pathflip.types import Caption
from pathflip.verify import CaptionComposer, SentenceBank, read_sentence_bank, read_verifier_calibration

__all__ = ["ORGAN_KEYS", "PROTOCOL", "SETS", "caption_rows", "organs_of"]

NAME = "slidebench-captioning"
SETS = (KnownSet(732, "SlideBench-Caption (TCGA), 732 captions", "b70ff96bd9a39979"),)
ORGAN_KEYS = ("organ", "tumor", "tumour", "project", "site", "cancer")
_PER_ORGAN = "constant a group"
_MOST = {"CIDEr": 10.0}
_COMPOSED = (
    "captions are composed of training sentences that the alignment model bears out (no language model, and the "
    "question is not read); a slide of which nothing is borne out has an empty caption"
)
LONGEST = 400
"""Tokens of a written report, at most, where ``--set longest`` says nothing."""


def caption_rows(path: Path) -> list[tuple[str, str]]:
    """What identifies a caption: its slide and its text, as the file has it."""
    return [(_item_of_row(row), str(first_of(row, TEXT_KEYS) or "")) for row in read_table(path)]


def _item_of_row(row: Mapping[str, Any]) -> str:
    """What a row is of: its slide, or its case where it names several slides, or none."""
    return slide_of_row(row) if len(case_slides_of_row(row, SLIDE_KEYS)) == 1 else case_of_row(row) or slide_of_row(row)


def organs_of(path: Path) -> dict[str, str]:
    """The organ (or tumour type) of every slide, "" where the table does not say."""
    return {_item_of_row(row): str(first_of(row, ORGAN_KEYS) or "") for row in read_table(path)}


def prompt_groups(path: Path) -> dict[str, str]:
    """What the prompt tells of every slide: the prompt itself where the file has a few of them (SlideBench's eight name
    the organ), else the organ or tumour type of :func:`organs_of`.

    A constant caption may know no more than an assistant is told: SlideBench's column Tumor tells two kinds of lung
    cancer apart, its prompts do not.
    """
    prompts = {slide_of_row(row): str(first_of(row, ("question", "prompt")) or "") for row in read_table(path)}
    distinct = set(prompts.values())
    return prompts if "" not in distinct and 1 < len(distinct) <= len(prompts) // 2 else organs_of(path)


def run(inputs: Inputs) -> Outcome:
    """Score captions of the slides of ``inputs.data``."""
    truth = read_captions(inputs.data)
    test_set, published = recognise(inputs.data.name, caption_rows(inputs.data), SETS, inputs.other_set)
    organ_of = prompt_groups(inputs.data)
    generated, skipped, strays = _captions(truth, inputs)
    scored = [caption for caption in truth if caption.slide_id in generated]
    text_only = _text_only([caption.slide_id for caption in scored], inputs)
    organs = [organ_of.get(caption.slide_id, "") for caption in scored]
    jar = inputs.settings.get("meteor_jar")
    rows = caption_measures(
        [generated[caption.slide_id] for caption in scored],
        scored,
        text_only=text_only,
        train=[c.text for c in read_captions(inputs.settings["train"])] if inputs.settings.get("train") else None,
        groups=organs if all(organs) else None,
        meteor_jar=Path(jar) if jar else None,
        num=inputs.resamples,
        seed=inputs.seed,
        draws=True,
    )
    notes = [_COMPOSED] if inputs.predictions is None and inputs.model else []
    notes += ["CIDEr weighs words by their rarity in this set: values of other sets cannot be compared"]
    if strays:
        notes.append(f"{strays} captions belong to no slide of the test set and were left out")
    if not all(organs):
        notes.append("the file names no organ (column Tumor or organ), so the constant caption is one for all slides")
    if not inputs.settings.get("train"):
        notes.append("the constant captions are made of the test captions themselves, which flatters them (no train)")
    return Outcome(
        scores=tuple(score for row in rows for score in _scores(row)),
        scored=len(scored),
        total=len(truth),
        test_set=test_set,
        published_applies=published,
        skipped=tuple(skipped),
        items=tuple({"slide": c.slide_id, "caption": generated[c.slide_id], "reference": c.text} for c in scored),
        notes=tuple(notes),
        compared_on=tuple((c.slide_id, c.patient) for c in scored),
    )


def _scores(row: Mapping[str, Any]) -> list[Score]:
    """A measure and its skill over the constant caption of each organ."""
    known = row["baselines"]
    constant = known.get(_PER_ORGAN, known["constant"])
    score = Score(
        measure=row["measure"], group="all", value=row["value"], low=row["low"], high=row["high"],
        number=row["captions"], chance=constant, baselines=known, text_only=row.get("text_only"),
        difference=row.get("difference"), difference_low=row.get("difference_low"),
        difference_high=row.get("difference_high"), note="chance is one constant caption for each organ",
        drawn=row["drawn"],
        paired={
            name: paired_row(row["value"], value, row["drawn"], row["baselines_drawn"][name])
            for name, value in known.items()
        },
    )  # fmt: skip
    room = _MOST.get(row["measure"], 1.0) - constant

    def skill(value: float | None) -> float | None:
        return None if value is None else (value - constant) / room

    name = f"skill in {row['measure']}"
    value = (row["value"] - constant) / room
    return [score, replace(
        score, measure=name, value=value, low=skill(row["low"]), high=skill(row["high"]), chance=0.0, baselines={},
        text_only=None, difference=None, difference_low=None, difference_high=None, paired={}, drawn=None,
        note="over one constant caption for each organ",
    )]  # fmt: skip


def _captions(truth: Sequence[Caption], inputs: Inputs) -> tuple[dict[str, str], list[Skipped], int]:
    """A caption a slide, slides without one, and captions of no slide here."""
    inputs.require(NAME, "predictions", "assistant", "model")
    slides = [caption.slide_id for caption in truth]
    if inputs.predictions is None:
        generated, skipped = _composed(truth, inputs) if inputs.model else _written(slides, inputs)
        return generated, skipped, 0
    predicted = _named_as(slides, read_generated(inputs.predictions))
    generated = {slide: text for slide, text in predicted.items() if slide in set(slides)}
    if not generated:
        raise CaptionError(
            f"{inputs.predictions.name}: no slide of it stands in '{inputs.data.name}' (first "
            f"'{next(iter(predicted), '')}' and '{slides[0]}'); expected captions of the same slides"
        )
    skipped = [Skipped(slide, "no caption") for slide in slides if slide not in generated]
    allow_missing_or_raise(NAME, skipped, len(slides), "slides", inputs)
    own = [caption for caption in truth if caption.slide_id in generated]
    if are_references([generated[one.slide_id] for one in own], [one.text for one in own]):
        raise CaptionError(
            f"{inputs.predictions.name}: all {len(own)} captions are the references word for word; expected what a "
            "model wrote: is it the file of the references?"
        )
    return generated, skipped, len(predicted) - len(generated)


def _named_as(slides: Sequence[str], generated: Mapping[str, str]) -> dict[str, str]:
    slide_of = join_ids(generated, slides)
    return {slide_of.get(name, name): text for name, text in generated.items()}


def _text_only(slides: Sequence[str], inputs: Inputs) -> list[str] | None:
    if inputs.text_only is None:
        return None
    if inputs.text_only.is_dir():
        twin = replace(inputs, assistant=inputs.text_only, predictions=None)
        generated = _written(slides, twin)[0]
    else:
        generated = _named_as(slides, read_generated(inputs.text_only))
    return [generated.get(slide, "") for slide in slides]


def _composed(truth: Sequence[Caption], inputs: Inputs) -> tuple[dict[str, str], list[Skipped]]:
    """Captions of training sentences that an alignment model bears out; nothing of a test patient's own report.

    Raises:
        ConfigError: an assistant beside the model, or no bank. CaptionError: the bank is of the test set's reports.
    """
    bank_file = inputs.settings.get("sentences")
    if inputs.assistant is not None or not bank_file:
        raise ConfigError(
            f"{NAME}: --model composes captions of a bank of training sentences; expected --set sentences=FILE "
            "(written by  pathflip calibrate … --sentences FILE) and no --assistant"
        )
    model = open_model(inputs)
    bank = read_sentence_bank(Path(bank_file), model)
    _refuse_own_reports(truth, bank, inputs)
    composer = CaptionComposer(model, bank, read_verifier_calibration(model.checkpoint.path or Path()))
    files, skipped = feature_files(NAME, [caption.slide_id for caption in truth], inputs)
    patient_of = {caption.slide_id: caption.patient for caption in truth}
    generated: dict[str, str] = {}
    for done, (slide, file) in enumerate(files.items(), start=1):
        try:
            encoded = encode_slide(model, read_features(file))
        except FeatureError as error:
            if not inputs.allow_missing:
                raise FeatureError(f"{NAME}: {error}; or give --allow-missing to score the other slides") from None
            skipped.append(Skipped(slide, "its feature file cannot be read"))
            continue
        generated[slide] = composer.compose(encoded, patient_of[slide]).text
        inputs.progress(done, len(files), slide)
    return generated, skipped


def _refuse_own_reports(truth: Sequence[Caption], bank: SentenceBank, inputs: Inputs) -> None:
    """Refuse a bank with reports of the patients tested: the model was trained on them, too.

    Raises:
        CaptionError: some are in both.
    """
    own = [caption for caption in truth if bank.sources_of_patient([caption.slide_id], caption.patient)]
    if own:
        raise CaptionError(
            f"{inputs.settings['sentences']}: {len(own)} of the {len(truth)} slides tested are of patients whose "
            f"reports are in this bank of training sentences (first '{own[0].slide_id}'); expected test patients that "
            "neither the bank nor the model has seen"
        )


def _longest(inputs: Inputs) -> int:
    setting = str(inputs.settings.get("longest") or LONGEST)
    if not setting.isdecimal() or int(setting) < 1:
        raise ConfigError(f"--set longest: got '{setting}', expected the tokens of a written report, at most")
    return int(setting)


def _written(slides: Sequence[str], inputs: Inputs) -> tuple[dict[str, str], list[Skipped]]:
    """What an assistant writes, asked by each row's own question; greedy."""
    assert inputs.assistant is not None
    files, skipped = feature_files(NAME, slides, inputs)
    prompts = {slide_of_row(row): str(row.get("question") or CAPTION_PROMPTS[1]) for row in read_table(inputs.data)}
    assistant = load_assistant(inputs.assistant, inputs.device, inputs.settings.get("language_model"))
    longest = _longest(inputs)
    generated: dict[str, str] = {}
    for done, (slide, file) in enumerate(files.items(), start=1):
        try:
            prompt = build_prompt(assistant, prompts[slide], prepare_slide(assistant.aligned, read_features(file)))
        except FeatureError as error:
            if not inputs.allow_missing:
                raise FeatureError(f"{NAME}: {error}; or give --allow-missing to score the other slides") from None
            skipped.append(Skipped(slide, "its feature file cannot be read"))
            continue
        generated[slide] = generate(assistant, prompt, max_new_tokens=longest)
        inputs.progress(done, len(files), slide)
    return generated, skipped


PROTOCOL = Protocol(
    name=NAME,
    title="SlideBench captioning (TCGA)",
    metric="BLEU-1 to 4, ROUGE-L, METEOR, CIDEr, and skill over a constant caption an organ",
    needs="SlideBench-Caption-TCGA.csv; features and an assistant, or a model and a bank of sentences; or captions",
    run=run,
    published=(
        Published("PathFLIP", "BLEU-1", "all", 0.38),
        Published("SlideChat", "BLEU-1", "all", 0.37),
        Published("MLLM-HWSI", "BLEU-1", "all", 0.462, "from notes"),
    ),
    table="questions",
    source="arXiv 2410.11761",
)
