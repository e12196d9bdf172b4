"""A caption of sentences that the alignment model bears out: no language model, nothing invented.

Of a bank of training sentences (:mod:`pathflip.verify.sentence_bank`) those are taken that score highest above their
mean over training slides, that the calibrated verifier gives at least a set probability, and that neither repeat nor
contradict one taken before, until the caption is as long as a report. What is not sure enough is left out, and counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float

from pathflip.errors import CheckpointError, ConfigError
from pathflip.inference import Aligned, EncodedCase, EncodedSlide, encode_text, presence_scores, slides_in
from pathflip.text.captions import patient_of
from pathflip.text.sub_captions import parse_sub_caption
from pathflip.types import Answer, Evidence, SubCaption, TextCode
from pathflip.verify.calibration import VerifierCalibration
from pathflip.verify.judge import best_regions, is_foreign
from pathflip.verify.lexicon import subjects
from pathflip.verify.scores import finding_scores, score_rows, weigh_sub_captions
from pathflip.verify.sentence_bank import BankSentence, SentenceBank
from pathflip.verify.sentence_conflicts import CONTRADICTIONS, Topic, clashes, topic_of

__all__ = ["AT_LEAST", "CaptionComposer", "ComposedCaption", "ComposedSentence"]

AT_LEAST = 0.8
"""Probability from which on a sentence is taken, unless another is set."""
COMPARED_FROM = 0.7
"""Probability of a sentence that could be compared with another wording or the finding it names with other slides;
others ("the background is fibrous stroma") must be called supported, and no more."""
ALIKE = 0.7
"""Cosine of two texts from which on they say the same."""
USUAL_TUMOUR, USUAL_FINDING, USUAL_DENIAL = 5.0, 5.0, 20.0
"""What usual wording is worth in the order of sentences: logits of the lead, log-odds of the others, a unit of
``BankSentence.usual``. Chosen on validation patients of one painted world (docs/log.md)."""
MOST_DENIALS = 3.0
"""Denials of a caption, at most, for each that a training report has in the mean."""
SOURCES_NAMED = 3
_SEEN_IN_SCORES = CONTRADICTIONS - {"place"}
"""What scores of two sentences differ in: place is told by their heatmaps, which the probability weighs."""
_LEFT_OUT = ("undecided", "unlikely", "repeated", "contradicting", "surplus")


@dataclass(frozen=True)
class ComposedSentence:
    """A sentence of a composed caption.

    Attributes:
        probability: that it is true, calibrated, at even odds. logit: the model's score. lead: the score less its mean
            over training slides.
        negated: it states an absence; it has no place then.
        reports: training reports that say it. sources: the names of some.
        regions: the tiles most similar to the words, best first.
    """

    text: str
    probability: float
    logit: float
    lead: float
    negated: bool
    reports: int
    sources: tuple[str, ...]
    regions: tuple[Evidence, ...]

    def as_row(self) -> dict[str, Any]:
        """What JSON holds."""
        return {
            "sentence": self.text,
            "probability": round(self.probability, 4),
            "score": round(self.logit, 4),
            "score_above_mean": round(self.lead, 4),
            "negated": self.negated,
            "reports": self.reports,
            "sources": list(self.sources),
        }


@dataclass(frozen=True)
class ComposedCaption:
    """A caption and what was left out of it.

    Attributes:
        sentences: in the order in which reports say such things.
        considered: sentences of the bank. own_report: of the bank, but only in reports of this patient: not considered.
        undecided: neither probable enough to take nor improbable enough to be false, or something that contradicts them
            stands out more. unlikely: the slide speaks against them.
        repeated: borne out, but the caption says it. contradicting: borne out, but the caption says otherwise.
        surplus: borne out, but the caption is as long as a report.
        never_supported: the calibration has no threshold from which on a sentence counts as supported.
    """

    slide_id: str
    sentences: tuple[ComposedSentence, ...]
    considered: int
    own_report: int
    undecided: int
    unlikely: int
    repeated: int
    contradicting: int
    surplus: int
    never_supported: bool = False

    @property
    def text(self) -> str:
        """The caption; "" where nothing is borne out."""
        return " ".join(one.text for one in self.sentences)

    @property
    def note(self) -> str:
        """What was considered and left out, in a line."""
        parts = [
            f"{self.considered} training sentences considered: {len(self.sentences)} taken, {self.undecided} left "
            f"undecided, {self.unlikely} the slide speaks against, {self.repeated} repeat what is taken, "
            f"{self.contradicting} contradict it, {self.surplus} left over"
        ]
        if self.own_report:
            parts.append(
                f"this patient's own report is in the bank: the {self.own_report} sentences that only it says were "
                "left out, but the model was trained on it"
            )
        if self.never_supported:
            parts.append(
                "the model's calibration calls no sentence supported: train longer, or fit with a lower --safe"
            )
        elif not self.sentences:
            parts.append("no sentence is borne out")
        return "; ".join(parts)

    def as_answer(self) -> Answer:
        """The caption as an assistant's answer: text and places."""
        evidence = tuple(region for one in self.sentences for region in one.regions)
        return Answer(self.text, evidence, abstained=not self.sentences, note=self.note)

    def counts(self) -> dict[str, int]:
        """How many sentences were considered, and what became of them."""
        names = ("considered", "own_report", *_LEFT_OUT)
        return {"taken": len(self.sentences)} | {name: getattr(self, name) for name in names}


class CaptionComposer:
    """Composes captions with one model and bank; texts are encoded once.

    Args:
        model: the alignment model. bank: scored by it. calibration: fitted for it.
        at_least: probability from which on a sentence is taken.
        most_words: a caption ends with the sentence that reaches so many; None: as long as the bank's reports.

    Raises:
        CheckpointError: there is no calibration, so nothing can be said to be borne out.
        ConfigError: ``at_least`` or ``most_words`` makes no sense.
    """

    def __init__(
        self,
        model: Aligned,
        bank: SentenceBank,
        calibration: VerifierCalibration | None,
        *,
        at_least: float = AT_LEAST,
        most_words: int | None = None,
    ) -> None:
        if calibration is None:
            raise CheckpointError(
                "the model has no calibration, so no sentence can be said to be borne out; fit one on slides it was "
                "not trained on with  pathflip calibrate"
            )
        if not 0.5 < at_least < 1:
            raise ConfigError(f"at least: got {at_least}, expected a probability above 0.5 and below 1, for example .8")
        if most_words is not None and most_words < 1:
            raise ConfigError(f"most words: got {most_words}, expected 1 or more")
        self.model, self.bank, self.calibration = model, bank, calibration
        high = calibration.sub_captions.high
        self.at_least, self.supported_from = at_least, np.inf if high is None else high
        self.most_words = bank.words if most_words is None else most_words
        lexicon = calibration.knowledge.lexicon
        parsed = [parse_sub_caption(one.text) for one in bank.sentences]
        readable = [i for i, one in enumerate(parsed) if one.decided and not is_foreign(one, calibration)]
        self.sentences: list[BankSentence] = [bank.sentences[i] for i in readable]
        self.sub_captions: list[SubCaption] = [parsed[i] for i in readable]
        self.topics: list[Topic] = [topic_of(one, calibration.knowledge) for one in self.sub_captions]
        # "The tumour lies centrally" names no finding to look for: where there is a tumour is asked.
        self._named = [
            [] if topic.tumour and not topic.negated and not topic.findings else subjects(one.content, lexicon)
            for one, topic in zip(self.sub_captions, self.topics, strict=True)
        ]
        self._codes = _KeptCodes(model)
        self._code = self._codes.of([one.text for one in self.sentences]) if readable else None
        self._means = np.array([one.mean for one in self.sentences])

    def compose(self, slide: EncodedSlide | EncodedCase, patient: str | None = None) -> ComposedCaption:
        """A caption of a slide or case.

        Args:
            slide: encoded by the model.
            patient: whose it is, where known; sentences that only reports of this patient say are not used. Without,
                it is the one the bank knows for the slide, or the one a TCGA or CPTAC name tells.
        """
        names = [slide.slide_id, *(one.slide_id for one in slides_in(slide))]
        own = self.bank.sources_of_patient(names, patient or patient_of(slide.slide_id))
        usable = [i for i, one in enumerate(self.sentences) if not own.issuperset(one.sources)]
        chosen, counts = self._choose(slide, usable)
        chosen.sort(key=lambda one: (self.sentences[one[0]].position, one[0]))
        places = self._regions(slide, [i for i, *_ in chosen])
        return ComposedCaption(
            slide_id=slide.slide_id,
            sentences=tuple(
                ComposedSentence(
                    text=self.sentences[i].text,
                    probability=probability,
                    logit=logit,
                    lead=logit - self.sentences[i].mean,
                    negated=self.sub_captions[i].negated,
                    reports=len(set(self.sentences[i].sources) - own),
                    sources=tuple(self.bank.sources[n].name for n in self.sentences[i].sources if n not in own)[
                        :SOURCES_NAMED
                    ],
                    regions=places.get(i, ()),
                )
                for i, probability, logit in chosen
            ),
            considered=len(usable),
            own_report=len(self.sentences) - len(usable),
            never_supported=bool(np.isinf(self.supported_from)),
            **counts,
        )

    def _choose(
        self, slide: EncodedSlide | EncodedCase, usable: Sequence[int]
    ) -> tuple[list[tuple[int, float, float]], dict[str, int]]:
        """The sentences taken, each with probability and score, and what became of the others."""
        counts = dict.fromkeys(_LEFT_OUT, 0)
        chosen: list[tuple[int, float, float]] = []
        if self._code is None or not usable:
            return chosen, counts
        scores = presence_scores(self.model, [slide], self._code)[0]
        borne_out = self._borne_out(slide, usable, scores - self._means, counts)
        words = denials = 0
        for i, probability in borne_out:
            taken = [j for j, *_ in chosen]
            if words >= self.most_words:
                counts["surplus"] += 1
            elif why := self._why_not(i, taken, denials):
                counts[why] += 1
            else:
                chosen.append((i, probability, float(scores[i])))
                words += len(self.sentences[i].text.split())
                denials += self.sub_captions[i].negated
        return chosen, counts

    def _borne_out(
        self,
        slide: EncodedSlide | EncodedCase,
        usable: Sequence[int],
        leads: Float[np.ndarray, " n"],
        counts: dict[str, int],
    ) -> list[tuple[int, float]]:
        """The sentences that the model bears out, with their probability: of the tumour, of findings, denials."""
        findings = self._of_findings(slide)
        of_several = len(slides_in(slide)) > 1
        plausible, above = [], list[int]()
        for i in sorted(usable, key=lambda i: (-leads[i], i)):
            topic = self.topics[i]
            likely = 1.0 if findings is None else self._likely(i, findings)
            if likely < self.at_least:
                counts["unlikely" if likely <= 1 - self.at_least else "undecided"] += 1
                continue
            if of_several and topic.place:  # a place is of one slide: "upper left" says nothing of a case
                counts["undecided"] += 1
                continue
            if not topic.negated and not topic.findings:
                # Where one that contradicts it stands out more, it is not sure.
                contradicted = leads[i] <= 0 or clashes(topic, [self.topics[j] for j in above], _SEEN_IN_SCORES)
                above.append(i)
                if contradicted:
                    counts["undecided"] += 1
                    continue
            plausible.append(i)
        borne_out = []
        for i, (probability, compared) in zip(plausible, self._probabilities(slide, plausible), strict=True):
            if probability >= (max(COMPARED_FROM, self.supported_from) if compared else self.supported_from):
                borne_out.append((i, probability))
            else:
                counts["unlikely" if probability <= 1 - self.at_least else "undecided"] += 1
        return sorted(borne_out, key=lambda one: self._rank(one[0], one[1], float(leads[one[0]])))

    def _rank(self, i: int, probability: float, lead: float) -> tuple[int, float]:
        """What comes first: the tumour, what stands out most; findings, then denials, what is most probable."""
        topic = self.topics[i]
        usual = self.sentences[i].usual
        odds = float(np.log(probability) - np.log1p(-probability))
        if topic.negated:
            return 2, -odds - USUAL_DENIAL * usual
        if topic.findings or topic.place:
            return 1, -odds - USUAL_FINDING * usual
        return 0, -lead - USUAL_TUMOUR * usual

    def _of_findings(self, slide: EncodedSlide | EncodedCase) -> Float[np.ndarray, " F"] | None:
        """How probable each finding of the vocabulary is, where the calibration tells."""
        fit, knowledge = self.calibration.findings, self.calibration.knowledge
        if fit is None:
            return None
        return fit.logistic.probability(finding_scores(self.model, [slide], knowledge)[0][:, None])

    def _likely(self, i: int, findings: Float[np.ndarray, " F"]) -> float:
        """That all findings a sentence affirms are there, or none of those it denies; 1 where it names none."""
        if not (named := self._named[i]):
            return 1.0
        return float(1 - findings[named].max()) if self.topics[i].negated else float(findings[named].min())

    def _why_not(self, i: int, taken: Sequence[int], denials: int) -> str:
        """Why a sentence that is borne out is left out: "contradicting", "repeated", "surplus"."""
        why = clashes(self.topics[i], [self.topics[j] for j in taken])
        if why in CONTRADICTIONS:
            return "contradicting"
        if why or (taken and float((self._local[taken] @ self._local[i]).max()) > ALIKE):
            return "repeated"
        return "surplus" if self.topics[i].negated and denials >= MOST_DENIALS * self.bank.denials else ""

    @cached_property
    def _local(self) -> Float[np.ndarray, "n E"]:
        assert self._code is not None
        return F.normalize(self._code.local.float(), dim=-1).cpu().numpy()

    def _probabilities(self, slide: EncodedSlide | EncodedCase, some: Sequence[int]) -> list[tuple[float, bool]]:
        """How probable sentences are, weighed as a report's, and whether there was anything to compare each with."""
        if not some:
            return []
        sub_captions, knowledge = [self.sub_captions[i] for i in some], self.calibration.knowledge
        weighings = weigh_sub_captions(self.model, slide, sub_captions, knowledge, self._codes.of)
        compared = [one.lead is not None or one.presence is not None for one in weighings]
        probabilities = self.calibration.sub_captions.logistic.probability(score_rows(weighings))
        return list(zip(map(float, probabilities), compared, strict=True))

    def _regions(self, slide: EncodedSlide | EncodedCase, chosen: Sequence[int]) -> dict[int, tuple[Evidence, ...]]:
        """The places of what is affirmed; an absence has none."""
        affirmed = [i for i in chosen if not self.sub_captions[i].negated]
        texts = [self.sentences[i].text for i in affirmed]
        return dict(zip(affirmed, best_regions(self.model, slide, texts), strict=True)) if affirmed else {}


class _KeptCodes:
    """Codes of texts, each encoded once."""

    def __init__(self, model: Aligned) -> None:
        self._model, self._place = model, dict[str, int]()
        self._all: TextCode | None = None

    def of(self, texts: Sequence[str]) -> TextCode:
        """The codes of texts, in their order."""
        if missing := [text for text in dict.fromkeys(texts) if text not in self._place]:
            fresh = encode_text(self._model, missing)
            self._place |= {text: len(self._place) + n for n, text in enumerate(missing)}
            self._all = fresh if self._all is None else TextCode.cat([self._all, fresh])
        assert self._all is not None
        rows = torch.tensor([self._place[text] for text in texts], device=self._all.local.device)
        gate, margin = (None if one is None else one[rows] for one in (self._all.gate, self._all.margin))
        return replace(
            self._all, texts=tuple(texts), caption=self._all.caption[rows], local=self._all.local[rows],
            negated=self._all.negated[rows], gate=gate, margin=margin,
        )  # fmt: skip
