"""Fitting a verifier's calibration from slides and their reports alone, no label by hand.

**True** is what a slide's own report says of it. **False** is made: a sentence turned by rule ("no necrosis" of
"necrosis"), a sentence with one attribute exchanged, and a finding that another slide's report affirms and this one
does not. The last kind is sometimes true after all (reports leave things out), so probabilities err on the side of
doubt. Slides must be ones the model was not trained on: on training slides it is surer than it has a right to be.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn.linear_model import LogisticRegression

from pathflip.errors import CaptionError, ConfigError
from pathflip.evaluate import metrics
from pathflip.evaluate.probability_scores import skills_of_binary
from pathflip.inference import Aligned, EncodedCase, EncodedSlide, presence_scores
from pathflip.text.flips import flipped_sub_caption
from pathflip.text.known_words import content_words
from pathflip.text.sub_captions import parse_sub_caption
from pathflip.types import Caption, SubCaption
from pathflip.verify.calibration import Fit, Logistic, VerifierCalibration, weights_digest
from pathflip.verify.judge import omission_scores
from pathflip.verify.lexicon import Lexicon, denied_phrases, exchangeable, learn_lexicon, rewordings
from pathflip.verify.place_and_extent import learn_shapes
from pathflip.verify.scores import (
    FINDING_SCORES,
    SUB_CAPTION_SCORES,
    Knowledge,
    finding_logits,
    finding_scores,
    score_rows,
    synonym_groups,
    weigh_sub_captions,
)

__all__ = ["Examples", "calibrate", "fit_logistic", "heard_alternatives", "safe_thresholds", "sub_caption_examples"]

DRAWS = 3
"""False sub-captions made a true one."""
PENALTY = 1.0
"""Ridge penalty on standardised scores (scikit-learn's C is its inverse)."""
DEAF = 0.9
"""Correlation over slides from which on two wordings are one to the model."""
SAMPLED = 4
"""Sentences a phrase is tried in."""
FOLDS = 5
FEWEST = 20
"""Examples beyond a threshold, for it to count."""
FEWEST_EXAMPLES = 40
NOTE = (
    "Probabilities are at even odds (as if half of all sentences were false) and rest on made examples: what the "
    "slide's own report says counts as true; sentences turned by rule, with an attribute exchanged, or of findings "
    "only other reports affirm count as false. Reports leave things out, so some of these are true."
)


@dataclass(frozen=True)
class Examples:
    """Sub-captions about slides: ``slide[i]`` is a row number, ``truth[i]`` whether ``sub_captions[i]`` holds of it."""

    sub_captions: tuple[SubCaption, ...]
    slide: Int[np.ndarray, " n"]
    truth: Bool[np.ndarray, " n"]


def calibrate(
    model: Aligned,
    slides: Sequence[EncodedSlide | EncodedCase],
    captions: Sequence[Caption],
    training_captions: Sequence[Caption],
    training_slides: Iterable[EncodedSlide | EncodedCase] = (),
    *,
    split: str,
    seed: int = 0,
    safe: float = 0.8,
) -> VerifierCalibration:
    """Fit a verifier's calibration.

    Args:
        model: with a directory of its own. slides: not used in training. captions: theirs, in the same order.
        training_captions: where words, findings and alternatives are read.
        training_slides: slides of ``training_captions`` (all or some), for what phrases of place and extent look
            like; without them these are not judged apart.
        split: what the slides are called in messages.
        seed: of the made examples.
        safe: fraction of the examples beyond a threshold that must be as they read.

    Raises:
        ConfigError: ``safe`` is not above one half and below one.
        CaptionError: too few sentences a slide can show.
    """
    if not 0.5 < safe < 1:
        raise ConfigError(f"calibrate: safe is {safe}, expected a fraction above 0.5 and below 1, for example 0.8")
    if model.checkpoint.path is None:
        raise CaptionError("calibrate: the model was not read from a directory; save it first")
    knowledge = _learn(model, slides, captions, training_captions, training_slides)
    patients = np.array([caption.patient for caption in captions])
    examples = sub_caption_examples(captions, knowledge.lexicon, np.random.default_rng(seed))
    if min(examples.truth.sum(), (~examples.truth).sum()) < FEWEST_EXAMPLES:
        raise CaptionError(
            f"calibrate: {examples.truth.sum()} true and {(~examples.truth).sum()} false sentences that a slide can "
            f"show, expected at least {FEWEST_EXAMPLES} of each; give more slides with reports"
        )
    rows, logits = _sub_caption_rows(model, slides, examples, knowledge)
    fitted = VerifierCalibration(
        weights_digest=weights_digest(model.checkpoint.path),
        split=split,
        slides=len(slides),
        patients=len(set(patients)),
        knowledge=knowledge,
        sub_captions=_fit(SUB_CAPTION_SCORES, rows, examples.truth, patients[examples.slide], _sigmoid(logits), safe),
        safe=safe,
        findings=_fit_findings(model, slides, captions, knowledge, patients, safe),
        note=NOTE,
    )
    if fitted.findings is None:
        return fitted
    visible = [[s for s in caption.sub_captions if s.decided] for caption in captions]
    intact = omission_scores(model, slides, visible, fitted)
    return fitted.model_copy(update={"omitted_from": float(np.quantile(intact, safe, method="higher"))})


def _learn(
    model: Aligned,
    slides: Sequence[EncodedSlide | EncodedCase],
    captions: Sequence[Caption],
    training_captions: Sequence[Caption],
    training_slides: Iterable[EncodedSlide | EncodedCase],
) -> Knowledge:
    lexicon = learn_lexicon(training_captions)
    if not lexicon.findings:
        return Knowledge(lexicon=lexicon, heard=heard_alternatives(model, slides, captions, lexicon))
    logits = finding_logits(model, slides, lexicon.findings)
    by_id = {caption.slide_id: caption for caption in training_captions}
    return Knowledge(
        lexicon=lexicon,
        heard=heard_alternatives(model, slides, captions, lexicon),
        offsets=tuple((float(m), float(s)) for m, s in zip(logits.mean(0), logits.std(0), strict=True)),
        shapes=learn_shapes(model, ((slide, by_id[slide.slide_id]) for slide in training_slides), lexicon),
        groups=synonym_groups(model, lexicon.findings),
    )


def heard_alternatives(
    model: Aligned, slides: Sequence[EncodedSlide | EncodedCase], captions: Sequence[Caption], lexicon: Lexicon
) -> dict[str, tuple[str, ...]]:
    """The alternatives whose exchange changes a sentence's logits from slide to slide.

    Synonyms, and differences the model does not hear, leave the logits over the slides as they were but for a
    constant: their correlation is above ``DEAF``.
    """
    sentences: dict[str, list[str]] = defaultdict(list)
    for caption in captions:
        for sub_caption in caption.sub_captions:
            if sub_caption.decided and not sub_caption.negated:
                for phrase in exchangeable(sub_caption.content, lexicon):
                    sentences[phrase].append(sub_caption.content)
    asked = {phrase: sorted(set(contents))[:SAMPLED] for phrase, contents in sorted(sentences.items())}
    worded = {(p, c): _with_rewordings(c, p, lexicon.alternatives[p]) for p, cs in asked.items() for c in cs}
    texts = sorted({text for row in worded.values() for text in row})
    if not texts:
        return {}
    logits = presence_scores(model, slides, texts)
    column = {text: place for place, text in enumerate(texts)}
    heard = {}
    for phrase, contents in asked.items():
        correlations = [_correlations(logits[:, [column[t] for t in worded[phrase, c]]]) for c in contents]
        mean = np.mean(correlations, axis=0)
        others = zip(lexicon.alternatives[phrase], mean, strict=True)
        if alternatives := tuple(other for other, value in others if value < DEAF):
            heard[phrase] = alternatives
    return heard


def _with_rewordings(content: str, phrase: str, others: Sequence[str]) -> list[str]:
    """A sentence, and it once more with each of the others in the phrase's place."""
    alone = Lexicon(words=frozenset(), findings=(), alternatives={phrase: tuple(others)})
    return [content, *rewordings(content, alone)[0]]


def _correlations(logits: Float[np.ndarray, "B A1"]) -> Float[np.ndarray, " A"]:
    """Over the slides, of the logit of a sentence (the first column) and of each rewording."""
    centred = logits - logits.mean(0)
    length = np.maximum(np.linalg.norm(centred, axis=0), 1e-9)
    return np.asarray(centred[:, 0] @ centred[:, 1:] / (length[0] * length[1:]))


# --- Made examples ---------------------------------------------------------------------------------------------------


def sub_caption_examples(captions: Sequence[Caption], lexicon: Lexicon, rng: np.random.Generator) -> Examples:
    """As many false sub-captions as true ones: ``DRAWS`` of each for every sentence that a slide can show."""
    foreign = _affirmed_findings(captions, lexicon)
    examples: list[tuple[SubCaption, int, bool]] = []
    for row, caption in enumerate(captions):
        for sub_caption in (s for s in caption.sub_captions if s.decided):
            for _ in range(DRAWS):
                made = _false_sub_caption(sub_caption, row, captions, lexicon, foreign, rng)
                if made is not None:
                    examples += [(sub_caption, row, True), (made, row, False)]
    sub_captions = tuple(entry[0] for entry in examples)
    return Examples(sub_captions, np.array([e[1] for e in examples], int), np.array([e[2] for e in examples], bool))


def _false_sub_caption(
    sub_caption: SubCaption,
    row: int,
    captions: Sequence[Caption],
    lexicon: Lexicon,
    foreign: Sequence[tuple[int, SubCaption, frozenset[str]]],
    rng: np.random.Generator,
) -> SubCaption | None:
    """One false sub-caption by a kind drawn at random among those that can be made here."""
    for kind in rng.permutation(("turned", "exchanged", "foreign")):
        if kind == "turned" and (flipped := flipped_sub_caption(sub_caption, rng)) is not None:
            return flipped
        if kind == "exchanged" and not sub_caption.negated and (slots := rewordings(sub_caption.content, lexicon)):
            slot = slots[int(rng.integers(len(slots)))]
            return parse_sub_caption(slot[int(rng.integers(len(slot)))])
        if kind == "foreign" and (other := _foreign_finding(row, captions[row], foreign, rng)) is not None:
            return other
    return None


def _affirmed_findings(captions: Sequence[Caption], lexicon: Lexicon) -> list[tuple[int, SubCaption, frozenset[str]]]:
    """Sentences that affirm a finding of the vocabulary: slide, sentence, the finding's words."""
    names = [frozenset(content_words(finding.name)) for finding in lexicon.findings]
    affirmed = []
    for row, caption in enumerate(captions):
        for sub_caption in caption.sub_captions:
            words = set(content_words(sub_caption.content))
            if sub_caption.decided and not sub_caption.negated:
                affirmed += [(row, sub_caption, name) for name in names if name and name <= words][:1]
    return affirmed


def _foreign_finding(
    row: int,
    caption: Caption,
    foreign: Sequence[tuple[int, SubCaption, frozenset[str]]],
    rng: np.random.Generator,
) -> SubCaption | None:
    """A finding another slide's report affirms, none of whose words this report affirms."""
    affirmed = {word for s in caption.sub_captions if s.decided and not s.negated for word in content_words(s.content)}
    usable = [s for other, s, name in foreign if other != row and not name & affirmed]
    return usable[int(rng.integers(len(usable)))] if usable else None


# --- Fits ------------------------------------------------------------------------------------------------------------


def _sub_caption_rows(
    model: Aligned, slides: Sequence[EncodedSlide | EncodedCase], examples: Examples, knowledge: Knowledge
) -> tuple[Float[np.ndarray, "n F"], Float[np.ndarray, " n"]]:
    rows = np.zeros((len(examples.truth), len(SUB_CAPTION_SCORES)))
    logits = np.zeros(len(examples.truth))
    for row, slide in enumerate(slides):
        places = np.flatnonzero(examples.slide == row)
        evidence = weigh_sub_captions(model, slide, [examples.sub_captions[i] for i in places], knowledge)
        rows[places] = score_rows(evidence)
        logits[places] = [e.logit for e in evidence]
    return rows, logits


def _fit_findings(
    model: Aligned,
    slides: Sequence[EncodedSlide | EncodedCase],
    captions: Sequence[Caption],
    knowledge: Knowledge,
    patients: np.ndarray,
    safe: float,
) -> Fit | None:
    """Is a finding there? From what the reports affirm and deny; what they do not speak of tells nothing."""
    truth = _spoken_truth(captions, knowledge.lexicon)
    slide, finding = np.nonzero(truth >= 0)
    known = truth[slide, finding] == 1
    if min(known.sum(), (~known).sum()) < FEWEST_EXAMPLES:
        return None
    logits = finding_logits(model, slides, knowledge.lexicon.findings)[slide, finding]
    scores = finding_scores(model, slides, knowledge)[slide, finding]
    balanced = _balanced(known, np.random.default_rng(0))
    return _fit(
        FINDING_SCORES,
        scores[balanced][:, None],
        known[balanced],
        patients[slide][balanced],
        _sigmoid(logits[balanced]),
        safe,
    )


def _spoken_truth(captions: Sequence[Caption], lexicon: Lexicon) -> Int[np.ndarray, "B F"]:
    """1 affirmed, 0 denied, -1 not spoken of (or both)."""
    names = [frozenset(content_words(finding.name)) for finding in lexicon.findings]
    place = {finding.name: i for i, finding in enumerate(lexicon.findings)}
    truth = np.full((len(captions), len(names)), -1)
    for row, caption in enumerate(captions):
        visual = [s for s in caption.sub_captions if s.decided]
        denied = {place[p] for s in visual if s.negated for p in denied_phrases(s) if p in place}
        affirmed_words = [set(content_words(s.content)) for s in visual if not s.negated]
        affirmed = {i for i, name in enumerate(names) if name and any(name <= words for words in affirmed_words)}
        truth[row, sorted(affirmed - denied)] = 1
        truth[row, sorted(denied - affirmed)] = 0
    return truth


def _fit(
    names: tuple[str, ...],
    rows: Float[np.ndarray, "n F"],
    truth: Bool[np.ndarray, " n"],
    patients: np.ndarray,
    raw: Float[np.ndarray, " n"],
    safe: float,
) -> Fit:
    """Fit on everything; errors and thresholds from probabilities of patients left out in turn."""
    left_out = _left_out_probabilities(names, rows, truth, patients)
    low, high = safe_thresholds(truth, left_out, safe)
    before, after = skills_of_binary(raw, truth), skills_of_binary(left_out, truth)
    return Fit(
        logistic=fit_logistic(names, rows, truth),
        low=low,
        high=high,
        ece_before=_calibration_error(raw, truth),
        ece_after=_calibration_error(left_out, truth),
        brier_skill_before=before[0],
        brier_skill_after=after[0],
        log_loss_skill_before=before[1],
        log_loss_skill_after=after[1],
        auroc=metrics.auroc(truth, left_out),
        examples=(int(truth.sum()), int((~truth).sum())),
    )


def _left_out_probabilities(
    names: tuple[str, ...], rows: Float[np.ndarray, "n F"], truth: Bool[np.ndarray, " n"], patients: np.ndarray
) -> Float[np.ndarray, " n"]:
    everyone = sorted(set(patients.tolist()))
    fold_of = {patient: i % FOLDS for i, patient in enumerate(everyone)}
    fold = np.array([fold_of[patient] for patient in patients.tolist()])
    probability = np.full(len(truth), 0.5)
    for number in range(FOLDS):
        rest, own = fold != number, fold == number
        if own.any() and 0 < truth[rest].sum() < rest.sum():
            probability[own] = fit_logistic(names, rows[rest], truth[rest]).probability(rows[own])
    return probability


def fit_logistic(names: tuple[str, ...], rows: Float[np.ndarray, "n F"], truth: Bool[np.ndarray, " n"]) -> Logistic:
    """Platt's scaling with several scores: ridge logistic regression on standardised columns, told in raw ones."""
    deviation = np.where(rows.std(0) > 0, rows.std(0), 1.0)
    model = LogisticRegression(C=1 / PENALTY, max_iter=1000, tol=1e-8).fit(rows / deviation, truth)
    weights = model.coef_[0] / deviation
    return Logistic(scores=names, weights=tuple(float(w) for w in weights), bias=float(model.intercept_[0]))


def safe_thresholds(
    truth: Bool[np.ndarray, " n"], probability: Float[np.ndarray, " n"], safe: float
) -> tuple[float | None, float | None]:
    """The highest ``low`` and lowest ``high`` beyond which a fraction ``safe`` of the examples is as it reads.

    None where no threshold is that safe on ``FEWEST`` examples or more. ``low`` is below .5 and ``high`` above.
    """
    high = _safe_from(truth, probability, safe)
    low = _safe_from(~truth, 1 - probability, safe)
    return (None if low is None else 1 - low), high


def _safe_from(truth: Bool[np.ndarray, " n"], probability: Float[np.ndarray, " n"], safe: float) -> float | None:
    order = np.argsort(-probability, kind="stable")
    falling = probability[order]
    counts = np.arange(1, len(order) + 1)
    right = np.cumsum(truth[order]) / counts
    # A threshold is a value of the list: all examples that share it are beyond it together.
    last = np.append(np.diff(falling) != 0, True)
    usable = last & (right >= safe) & (counts >= FEWEST) & (falling > 0.5)
    return float(falling[np.flatnonzero(usable)[-1]]) if usable.any() else None


def _balanced(truth: Bool[np.ndarray, " n"], rng: np.random.Generator) -> Int[np.ndarray, " m"]:
    """As many rows of each truth, in order."""
    sides = [np.flatnonzero(truth), np.flatnonzero(~truth)]
    size = min(map(len, sides))
    return np.sort(np.concatenate([rng.permutation(side)[:size] for side in sides]))


def _calibration_error(probability: Float[np.ndarray, " n"], truth: Bool[np.ndarray, " n"]) -> float:
    """Gap between the stated probability of being true and the fraction that is true."""
    return metrics.expected_calibration_error(probability, truth)


def _sigmoid(logit: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    return np.asarray(0.5 * (1 + np.tanh(logit / 2)))
