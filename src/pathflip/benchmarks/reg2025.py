"""REG2025: reports written of slides, scored as 0.15 · (ROUGE + BLEU) + 0.4 · KEY + 0.3 · EMB.

KEY is the Jaccard overlap of two reports' keywords, EMB the cosine of their sentence embeddings. The challenge took
both from models of its own; here the keywords are the reports' content words and the sentence encoder is yours
(``--set sentence_model=FOLDER``), named in the result, so the score is close to the challenge's and not the same.
Floors: one constant report an organ, and the reports' most frequent keywords alone, made of the other reports.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from heapq import nsmallest
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pathflip.benchmarks.measured import mean_score
from pathflip.benchmarks.protocol import Inputs, Outcome, Protocol, Skipped
from pathflip.benchmarks.slide_files import allow_missing_or_raise
from pathflip.benchmarks.test_sets import content_hash
from pathflip.errors import CaptionError, ConfigError
from pathflip.evaluate.caption_scores import bleu, bleu_counts, rouge_l
from pathflip.evaluate.ptb_words import ptb_words
from pathflip.io.slide_id import slide_id
from pathflip.io.tables import first_of, read_table, text_of
from pathflip.text.captions import TEXT_KEYS, patient_of
from pathflip.text.pretrained import PretrainedText, open_pretrained_text

__all__ = ["PROTOCOL", "keywords", "reg_scores"]

NAME = "reg2025"
WEIGHTS = {"ROUGE": 0.15, "BLEU": 0.15, "KEY": 0.4, "EMB": 0.3}
SENTENCE_MODEL = "minilm-l6"
_EMPTY = frozenset(
    """a an and are as at be by for from has have in is it its no not of on or other the there this to was were with
    without which that seen shows show present""".split()  # noqa: SIM905
)


def keywords(text: str) -> frozenset[str]:
    """The content words of a report, in lower case."""
    words = re.findall(r"[a-z0-9]+(?:[./+-][a-z0-9]+)*", text.lower())
    return frozenset(word for word in words if word not in _EMPTY)


def _jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    return len(first & second) / len(first | second) if first | second else 0.0


def reg_scores(
    generated: Sequence[str], truth: Sequence[str], encoder: PretrainedText
) -> dict[str, NDArray[np.floating]]:
    """The parts of the score and the score itself ("REG"), report by report."""
    pairs = [(ptb_words(a), ptb_words(b)) for a, b in zip(generated, truth, strict=True)]
    parts = {
        "ROUGE": np.array([rouge_l(a, [b]) if a else 0.0 for a, b in pairs]),
        "BLEU": np.array([float(bleu(bleu_counts(a, [b])[None])[3]) if a else 0.0 for a, b in pairs]),
        "KEY": np.array([_jaccard(keywords(a), keywords(b)) for a, b in zip(generated, truth, strict=True)]),
    }
    ours, theirs = encoder.embed([text or "." for text in generated]), encoder.embed(list(truth))
    cosine = (ours * theirs).sum(1).clamp(min=0).double().numpy()
    parts["EMB"] = np.where([bool(text) for text in generated], cosine, 0.0)
    parts["REG"] = np.sum([WEIGHTS[name] * parts[name] for name in WEIGHTS], axis=0)
    return parts


def _reports(path: Path) -> dict[str, str]:
    """Reports by id.

    Raises:
        CaptionError: a row lacks an id or a report, or an id stands twice.
    """
    reports: dict[str, str] = {}
    for number, row in enumerate(read_table(path, expected='a JSON list of {"id", "report"}'), 1):
        own = first_of(row, ("id", "slide", "slide_id", "image_id"))
        if own is None or not any(key in row for key in TEXT_KEYS):
            raise CaptionError(f'{path.name}: row {number}: expected an "id" and a "report"')
        name = slide_id(own)
        if name in reports:
            raise CaptionError(f"{path.name}: row {number}: '{name}' stands there already; expected one report")
        reports[name] = text_of(first_of(row, TEXT_KEYS), "report")
    return reports


def run(inputs: Inputs) -> Outcome:
    """Score the reports of ``inputs.predictions`` against those of ``inputs.data``."""
    inputs.require(NAME, "predictions")
    assert inputs.predictions is not None
    truth, generated = _reports(inputs.data), _reports(inputs.predictions)
    if empty := [name for name, text in truth.items() if not ptb_words(text)]:
        raise CaptionError(f"{inputs.data.name}: the report of '{empty[0]}' is empty; expected one with words")
    if not truth.keys() & generated.keys():
        raise CaptionError(
            f"{inputs.predictions.name}: no id of it stands in '{inputs.data.name}' ('{next(iter(generated))}' and "
            f"'{next(iter(truth))}'); expected reports of the same slides"
        )
    missing = [Skipped(name, "no report written") for name in truth if name not in generated]
    allow_missing_or_raise(NAME, missing, len(truth), "slides", inputs)
    names = [name for name in truth if name in generated]
    true = [truth[name] for name in names]
    source = str(inputs.settings.get("sentence_model") or SENTENCE_MODEL)
    try:
        encoder = open_pretrained_text(source)
    except ConfigError as error:
        raise ConfigError(f"--set sentence_model: {error}") from None
    parts = reg_scores([generated[name] for name in names], true, encoder)
    floors = {name: reg_scores(texts, true, encoder) for name, texts in _floors(truth, names).items()}
    patients = [patient_of(name) for name in names]
    scores = [
        mean_score(
            part, "all", parts[part], patients, float(floors["constant report an organ"][part].mean()), inputs,
            rivals={name: values[part] for name, values in floors.items()},
            note="chance is one constant report an organ",
        )
        for part in ("REG", *WEIGHTS)
    ]  # fmt: skip
    strays = len(generated.keys() - truth.keys())
    return Outcome(
        scores=tuple(scores), scored=len(names), total=len(truth),
        test_set=f"{len(truth):,} reports (content hash {content_hash(list(truth.items()))})",
        skipped=tuple(missing),
        compared_on=tuple(zip(names, patients, strict=True)),
        items=tuple(
            {"id": name, **{part: round(float(values[i]), 6) for part, values in parts.items()}}
            for i, name in enumerate(names)
        ),
        notes=(
            f"sentence embeddings: {source}, weights {encoder.digest[:16]}; another model gives another EMB",
            "keywords are content words by rule, not the challenge's extractor: compare KEY within PathFLIP only",
            "floors are made of an organ's other true reports (of all others, where it has one): that flatters them",
            *((f"{strays} written reports belong to no slide here and were left out",) if strays else ()),
        ),
        published_applies=False,
    )  # fmt: skip


def organ_of(report: str) -> str:
    """What the report's first words name ("Breast, core biopsy; …" -> "breast")."""
    return re.split(r"[,;:\n]", report.strip(), maxsplit=1)[0].strip().lower()


def _floors(truth: Mapping[str, str], names: Sequence[str]) -> dict[str, list[str]]:
    """Reports that look at no slide: an organ's most frequent one, and its most frequent keywords.

    Each is made of the other reports of the organ, never of the one it stands for: an organ with a single report would
    be its own floor. Such a report gets the floor of all others.
    """
    words = {name: keywords(text) for name, text in truth.items()}
    organ = {name: organ_of(text) for name, text in truth.items()}
    alone = {one for one, count in Counter(organ.values()).items() if count == 1}
    groups = {name: "" if one in alone else one for name, one in organ.items()}  # "": all reports
    texts: dict[str, Counter[str]] = defaultdict(Counter)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    sizes: Counter[str] = Counter()
    for name, text in truth.items():
        for group in {"", organ[name]}:
            texts[group][text] += 1
            counts[group].update(words[name])
            sizes[group] += 1
    constant, frequent = [], []
    for name in names:
        group = groups[name]
        others = max(1, sizes[group] - 1)
        reports = texts[group] - Counter([truth[name]])
        constant.append(max(reports, key=lambda text: reports[text], default=truth[name]))
        left = counts[group] - Counter(words[name])
        length = round(left.total() / others)
        frequent.append(" ".join(nsmallest(length, left, key=lambda word: (-left[word], word))))
    return {"constant report an organ": constant, "keywords alone": frequent}


PROTOCOL = Protocol(
    name=NAME,
    title="REG2025 report generation",
    metric="0.15 · (ROUGE + BLEU) + 0.4 · KEY + 0.3 · EMB",
    needs='true and written reports, JSON lists of {"id", "report"}; a sentence encoder of your choice',
    run=run,
    table="questions",
    source="REG2025 challenge",
)
