"""A bank of sentences of training reports, of which captions are composed: :mod:`pathflip.verify.composed_captions`.

A sentence is in the bank where it can be borne out by another slide than its own: a slide can show it, it is affirmed
or denied and reads the same alone, it holds no measured number, points at nothing outside itself, and nothing in it
tells who somebody is. With it stand how high it scores on the training slides in the mean (some sentences score high on
every slide) and whose reports say it: a slide is never described in the words of its own patient's report.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from pathflip.errors import CaptionError, CheckpointError
from pathflip.inference import Aligned, EncodedCase, EncodedSlide, encode_text, presence_scores
from pathflip.io.files import write_json
from pathflip.text.case_tables import slides_of
from pathflip.text.decompose.identifiers import find_identifiers
from pathflip.text.known_words import content_words, word_tokens
from pathflip.text.privacy import without_private_words
from pathflip.text.sentences import split_sentences
from pathflip.text.sub_captions import parse_sub_caption
from pathflip.types import Caption, SubCaption
from pathflip.verify.calibration import weights_digest

__all__ = [
    "BankSentence",
    "BankSource",
    "SentenceBank",
    "bank_row",
    "collect_sentences",
    "read_sentence_bank",
    "states_a_number",
    "write_sentence_bank",
]

FORMAT = "pathflip-sentence-bank"
FORMAT_VERSION = 1
MOST_SENTENCES = 6000
MOST_SLIDES = 400
"""Training slides over which the mean score of a sentence is taken."""
MOST_WORDS = 60

_GRADE = re.compile(
    r"\b(?:grades?|scores?|gleason|groups?|patterns?|types?|class|isup|who|figo|nottingham|fuhrman|dukes)"
    r"(?:\s+(?:grades?|scores?|groups?|patterns?|is|of))*\s*[:=]?\s*\(?(?:\d{1,2}|[ivx]{1,4})\b"
    r"(?:\s*(?:[+/=–-]|of|out of|to|and)\s*\d{1,2}\b)*\)?",
    re.IGNORECASE,
)
_NAMED_BY_NUMBER = re.compile(r"\b[^\W\d_]+-?\d+[a-z]?\b")
"""CD20, p53: a digit that is part of a name."""
_NUMBER = re.compile(r"\b(?:[^\W\d_]+-?\d+[a-z]?|\d+[^\W\d_]{2,})\b(?<!\dmm)(?<!\dcm)(?<!\dum)(?<!\dµm)(?<!\dml)")
_NUMBER = re.compile(
    r"\d|\b(?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|dozens?|twenty|thirty|forty|fifty|half|"
    r"a third|two thirds|quarters?|percent|zwei|drei|vier|fünf|hälfte|deux|trois|quatre|cinq|moitié|dos|tres|cuatro|"
    r"cinco|mitad)\b",
    re.IGNORECASE,
)
_POINTS_ELSEWHERE = re.compile(
    r"^(?i:it|its|this|these|those|they|their|both|such|the former|the latter|same|he|she|we|please|see)\b"
    r"|\b(?i:(?:as|see)\s+(?:also\s+)?(?:described|noted|mentioned|stated|discussed|above|below|note|comment|text|"
    r"synoptic|figure)|above|below|aforementioned|previous(?:ly)?|prior|earlier|again|unchanged|compared|correlat\w+|"
    r"consult\w*|intradepartmental|patient'?s?)\b"
    r"|\b(?i:parts?|specimens?|blocks?|jars?|containers?|levels?|cassettes?|slides?|sections?|figs?\.?|figures?)\s+"
    r"(?!(?:IS|OF|IN|AT|TO|BY|ON|AS|NO|OR|WE|AN)\b)(?:[A-Z]{1,2}\d{0,3}|\d+)\b"
)
_OFF_THE_SLIDE = re.compile(
    r"\b(?:left|right)(?:-sided)?(?! (?:part|side|half|portion|area|corner|edge|end|of|and|or|there|is|are|was|were|in|"
    r"with|shows?|contains?)\b)(?= \w)"
    r"|\b(?:left|right)(?: (?:part|side|half|portion|area|corner|edge|end))? of "
    r"(?!(?:the |this |these )?(?:tissues?|sections?|slides?|images?|fragments?|samples?|tumou?rs?|lesions?)\b)"
    r"|\b(?:quadrants?|lobes?|o'clock|\w*ectom(?:y|ies)|biops\w+|resect\w+|excis\w+|amputat\w+|specimens?|frozen|surg\w+|"
    r"immuno\w*|stain\w*|positiv\w*|express\w*|mutat\w*|amplif\w*|molecular\w*|blood (?:draw|samples?)|reports?|"
    r"(?:fe)?males?|(?:wo)?m[ae]n|caucasian|year-old)\b",
    re.IGNORECASE,
)
"""Sides and sites of the body, procedures, stains and persons: what parsing takes for visible and no slide tells."""
_LABELLED = re.compile(r"^\s*[(\[]?(?:[A-Z]|\d{1,2})[).:]\s")


class BankSource(BaseModel):
    """A report of the training set: the name of its item, its slides and its patient."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    patient: str
    slides: tuple[str, ...] = ()


class BankSentence(BaseModel):
    """A sentence of training reports.

    Attributes:
        text: as a report writes it, with a capital and a stop.
        sources: numbers of the reports that say it, in ``SentenceBank.sources``.
        mean: of its score over training slides. position: where it stands in a report, 0 first to 1 last.
        usual: fraction of the reports that hold a pair of neighbouring words of it, in the mean over its pairs: of two
            sentences that say the same, the one in the laboratory's usual words.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    sources: tuple[int, ...]
    mean: float
    position: float
    usual: float


class SentenceBank(BaseModel):
    """Sentences of training reports, and what composing needs to know of them.

    Attributes:
        weights_digest: of the model that scored them; another model's bank is refused.
        slides: training slides in the means. words, denials: words and denied statements of a report, in the mean.
        sources: the reports. sentences: most frequent first.
        left_out: why statements of the reports are not in it, and how many.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: str = FORMAT
    format_version: int = FORMAT_VERSION
    weights_digest: str
    slides: int
    words: float
    denials: float
    sources: tuple[BankSource, ...]
    sentences: tuple[BankSentence, ...]
    left_out: dict[str, int]

    def sources_of_patient(self, names: Iterable[str], patient: str | None) -> frozenset[int]:
        """Numbers of the reports of the slides or items named, and of every other report of their patients."""
        asked = set(names)
        patients = {one.patient for one in self.sources if asked & {one.name, *one.slides}} | {patient}
        return frozenset(number for number, one in enumerate(self.sources) if one.patient in patients)


@dataclass
class _Statement:
    text: str
    negated: bool
    sources: set[int] = field(default_factory=set)
    positions: list[float] = field(default_factory=list)


def collect_sentences(
    model: Aligned, captions: Sequence[Caption], slides: Sequence[EncodedSlide | EncodedCase]
) -> SentenceBank:
    """A bank of the sentences of training reports, scored on training slides.

    Args:
        model: with a directory of its own.
        captions: the reports of the training set, nothing else: what is asked later must not stand here.
        slides: of the training set, encoded; of more than ``MOST_SLIDES`` some at even steps are scored.

    Raises:
        CaptionError: no sentence can be taken, there is no slide, or the model has no directory.
    """
    if model.checkpoint.path is None:
        raise CaptionError("collect_sentences: the model was not read from a directory; save it first")
    if not slides:
        raise CaptionError("sentences: got no training slide with a report, expected some to score the sentences on")
    statements, left_out = _statements(model, captions)
    if not statements:
        reasons = ", ".join(f"{count} {why}" for why, count in left_out.items()) or "they hold none"
        raise CaptionError(f"sentences: no sentence of the training reports can be taken ({reasons})")
    scored = [slides[i] for i in np.unique(np.linspace(0, len(slides) - 1, min(MOST_SLIDES, len(slides))).astype(int))]
    means = presence_scores(model, scored, encode_text(model, [one.text for one in statements])).mean(0)
    pairs = Counter(pair for caption in captions for pair in set(_pairs(caption.text)))
    denied = [sum(s.decided and s.negated for s in caption.sub_captions) for caption in captions]
    return SentenceBank(
        weights_digest=weights_digest(model.checkpoint.path),
        slides=len(scored),
        words=float(np.mean([len(caption.text.split()) for caption in captions])),
        denials=float(np.mean(denied)),
        sources=tuple(
            BankSource(name=c.slide_id, patient=c.patient, slides=tuple(s.slide_id for s in slides_of(c)))
            for c in captions
        ),
        sentences=tuple(
            BankSentence(
                text=one.text,
                sources=tuple(sorted(one.sources)),
                mean=float(mean),
                position=float(np.mean(one.positions)),
                usual=_usual(one.text, pairs, len(captions)),
            )
            for one, mean in zip(statements, means, strict=True)
        ),
        left_out=dict(left_out),
    )


def write_sentence_bank(file: Path, bank: SentenceBank) -> Path:
    """Write a bank as JSON. It holds words of reports and names of slides and patients: keep it as these are kept."""
    write_json(file, bank.model_dump(mode="json"))
    return file


def bank_row(bank: SentenceBank) -> dict[str, Any]:
    """What a bank holds, in numbers, as JSON can hold it."""
    return {
        "sentences": len(bank.sentences),
        "reports": len(bank.sources),
        "slides": bank.slides,
        "left_out": dict(bank.left_out),
    }


def read_sentence_bank(file: Path, model: Aligned) -> SentenceBank:
    """The bank in a file.

    Raises:
        CaptionError: no such file, or no bank. CheckpointError: of another version, or scored by another model.
    """
    how = "write one with  pathflip calibrate … --sentences FILE"
    if not file.is_file():
        raise CaptionError(f"'{file}': no such file; expected a bank of sentences; {how}")
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        values = None
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise CaptionError(f"'{file}': is no bank of sentences (a table of reports is none); {how}")
    if values.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"'{file}': is version {values.get('format_version')}, expected {FORMAT} {FORMAT_VERSION}; {how}"
        )
    try:
        bank = SentenceBank.model_validate(values)
    except ValidationError as error:
        reason = " ".join(str(error).split())[:120]
        raise CaptionError(f"'{file}': is a damaged bank of sentences ({reason}); {how}") from None
    if any(not 0 <= number < len(bank.sources) for one in bank.sentences for number in one.sources):
        raise CaptionError(f"'{file}': is a damaged bank of sentences (a report it names is missing); {how}")
    if model.checkpoint.path is None or bank.weights_digest != weights_digest(model.checkpoint.path):
        raise CheckpointError(f"'{file}': was scored by another model; {how} again, with this model")
    return bank


# --- Which sentences -------------------------------------------------------------------------------------------------


def _statements(model: Aligned, captions: Sequence[Caption]) -> tuple[list[_Statement], Counter[str]]:
    """The distinct sentences that can be taken, most frequent first, and how many of the others were left out."""
    texts = [[_written(one.text) for one in caption.sub_captions] for caption in captions]
    public = iter(without_private_words(texts))
    languages = Counter(s.language for caption in captions for s in caption.sub_captions if s.decided)
    language = languages.most_common(1)[0][0] if languages else None
    known: dict[str, _Statement] = {}
    left_out: Counter[str] = Counter()
    for number, caption in enumerate(captions):
        last = max(1, len(caption.sub_captions) - 1)
        sentences = set(split_sentences(caption.text))
        for place, (sub_caption, text) in enumerate(zip(caption.sub_captions, texts[number], strict=True)):
            whole = sub_caption.place is None or sub_caption.text in sentences  # ready-made ones have no place
            if reason := _why_not(model, sub_caption, text, next(public), language, whole):
                left_out[reason] += 1
                continue
            statement = known.setdefault(text.casefold(), _Statement(text, sub_caption.negated))
            statement.sources.add(number)
            statement.positions.append(place / last)
    ordered = sorted(known.values(), key=lambda one: (-len(one.sources), one.text))
    if len(ordered) > MOST_SENTENCES:
        left_out["rarer than the others"] += len(ordered) - MOST_SENTENCES
    return ordered[:MOST_SENTENCES], left_out


def _pairs(text: str) -> list[tuple[str, str]]:
    words = word_tokens(text)
    return list(pairwise(words))


def _usual(text: str, pairs: Mapping[tuple[str, str], int], reports: int) -> float:
    own = _pairs(text)
    return sum(pairs.get(pair, 0) for pair in own) / (reports * len(own)) if own else 0.0


def _written(text: str) -> str:
    """A sentence, or a clause cut out of one, with a capital and a stop."""
    text = " ".join(text.split())
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?", "。")) else ".")


def _why_not(model: Aligned, sub_caption: SubCaption, text: str, public: str, language: str | None, whole: bool) -> str:
    """Why a statement cannot be said of another slide; "" where it can."""
    if not sub_caption.visual:
        return "no slide can show"
    if sub_caption.undecided:
        return "leave open whether it is there"
    if sub_caption.language != language:
        return "in another language"
    if public != text or find_identifiers(text):
        return "hold what may tell who somebody is, or words of a single report"
    if states_a_number(text):
        return "state a measured number"
    if not whole:
        return "are a part of a sentence"
    if _OFF_THE_SLIDE.search(text):
        return "tell of a side of the body, a procedure, a stain or a person"
    if _POINTS_ELSEWHERE.search(text) or _LABELLED.match(text):
        return "point at something outside themselves"
    alone = parse_sub_caption(text)
    if not alone.decided or alone.negated != sub_caption.negated or len(text.split()) > MOST_WORDS:
        return "do not read the same alone"
    if not content_words(alone.content) or model.checkpoint.tokenizer.unknown_words(alone.content):
        return "hold a word that the model does not know"
    return ""


def states_a_number(text: str) -> bool:
    """Whether a sentence states a number that was measured or counted; grades and scores are none."""
    return bool(_NUMBER.search(_NAMED_BY_NUMBER.sub(" ", _GRADE.sub(" ", text))))
