"""Answers with the regions behind them: questions, captions and conversations about slides.

An answer that a slide cannot give is not invented: how likely the assistant finds "cannot be determined from this
slide" is weighed first, by a calibration fitted on questions of both kinds (``calibration.json`` beside the weights).
Yes and no are given where the same calibration says that they can be told apart (:mod:`pathflip.assistant.yes_or_no`).
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import torch

from pathflip.assistant.evidence import option_evidence, text_evidence
from pathflip.assistant.generation import (
    Prompt,
    Slide,
    answer_likelihoods,
    build_prompt,
    generate,
    log_likelihood,
    option_probabilities,
)
from pathflip.assistant.saved_assistant import LoadedAssistant
from pathflip.assistant.visual_tokens import PreparedSlide, prepare_slide
from pathflip.assistant.yes_or_no import Verdict, places_of_yes_and_no, verdicts, with_verdict
from pathflip.data.instruct import CAPTION_PROMPTS
from pathflip.errors import CaptionError, ConfigError
from pathflip.text.chat import Turn
from pathflip.text.questions import asks_whether, question_content
from pathflip.text.refusals import CANNOT_TELL, cannot_tell
from pathflip.text.sentences import split_sentences
from pathflip.text.sub_captions import sub_captions_of
from pathflip.types import Answer, Evidence, SlideFeatures

__all__ = ["UNDECIDED", "Conversation", "Writing", "answer", "ask", "caption", "refusal_logit", "refusal_logits"]

MOST_QUESTION_WORDS = 400
UNDECIDED = "undecided"
"""The answer to a yes-or-no question where neither can be said."""
NOT_FITTED = (
    "no threshold for yes and no is stored with this assistant: what it writes was not held against slides whose "
    "answer is known (pathflip calibrate --assistant …)"
)


@dataclass(frozen=True)
class Writing:
    """How answers are written: the longest, in tokens; 0 is greedy; the seed of draws above 0."""

    max_new_tokens: int = 200
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


GREEDY = Writing()


def ask(
    assistant: LoadedAssistant,
    question: str,
    slides: Slide | Sequence[Slide],
    options: Sequence[str] = (),
    *,
    history: Sequence[Turn] = (),
    most_evidence: int = 5,
    writing: Writing = GREEDY,
    stream: Callable[[str], None] | None = None,
) -> Answer:
    """Answer a question about a slide, or about several slides of one case.

    Args:
        assistant: from :func:`~pathflip.assistant.load_assistant`.
        question: in words.
        slides: features, or prepared slides (:func:`~pathflip.assistant.prepare_slide`: quicker for many questions).
        options: of a multiple-choice question. They are scored by likelihood; what the language model writes when left
            to itself is in ``Answer.generated``.
        history: earlier turns about the same slides.
        most_evidence: places to name, over all slides.
        writing: greedy by default.
        stream: called with every stretch of an open answer as it is written (not where it is withheld).

    Returns:
        The answer. ``abstained`` says that the slide cannot tell, that a yes-or-no question holds no word of the
        training texts, or that neither yes nor no can be said (:data:`UNDECIDED`, and ``note`` says why; both without a
        confidence); ``confidence`` is the probability of the answer given: of the option chosen, of a calibrated yes or
        no, of not being told, or the geometric mean over what was written.

    Raises:
        CaptionError: an empty or overlong question. ConfigError, ContractError, FeatureError: the slides do not fit.
    """
    if (words := len(question.split())) > MOST_QUESTION_WORDS:
        raise CaptionError(f"question: got {words} words, expected at most {MOST_QUESTION_WORDS}; shorten it")
    slides = prepared_slides(assistant, slides)
    if assistant.calibration.yes_or_no is not None and not options and asks_whether(question):
        history = ()  # such a question stands by itself, and thresholds were fitted on questions asked first
    prompt = build_prompt(assistant, question, slides, options, history=history)
    unknown = assistant.aligned.knows_no_word_of
    if not options and asks_whether(question) and unknown(question_content(question)):
        # "Is there a fracture?": without a word of the training texts, a yes or no would be about something else.
        return Answer(CANNOT_TELL, abstained=True)
    openly = build_prompt(assistant, question, slides, history=history) if options else prompt
    yes_or_no = asks_whether(question) if not options else places_of_yes_and_no(question, options) is not None
    verdict = verdicts(assistant, [openly])[0] if yes_or_no else None
    refusal = refusal_logit(assistant, openly)
    reply = answer(
        assistant, prompt, slides, refusal, verdict, most_evidence=most_evidence, writing=writing, stream=stream
    )
    unfitted = yes_or_no and assistant.calibration.yes_or_no is None and not reply.abstained
    return replace(reply, note=NOT_FITTED) if unfitted and _says_yes_or_no(reply) else reply


def _says_yes_or_no(reply: Answer) -> bool:
    return re.match(r"\W*(yes|no)\b", reply.text, re.IGNORECASE) is not None


def answer(
    assistant: LoadedAssistant,
    prompt: Prompt,
    slides: Sequence[PreparedSlide],
    refusal: float,
    verdict: Verdict | None = None,
    *,
    most_evidence: int = 5,
    writing: Writing = GREEDY,
    stream: Callable[[str], None] | None = None,
) -> Answer:
    """:func:`ask` for a prompt made before, with its :func:`refusal_logit` and, of a yes-or-no question, verdict."""
    calibration = assistant.calibration
    p_refusal = calibration.refusal(refusal)
    if prompt.options:
        return _choice(assistant, prompt, slides, p_refusal, verdict, most_evidence)
    if p_refusal >= calibration.refuse_above:
        return Answer(CANNOT_TELL, abstained=True, confidence=p_refusal)
    if verdict is not None and verdict.side == "undecided":
        places = text_evidence(assistant.aligned, slides, question_content(prompt.question), most_evidence)
        return Answer(UNDECIDED, places, abstained=True, note=verdict.note)
    text = _written(assistant, prompt, writing, stream, begin="" if verdict is None else verdict.side.capitalize())
    if not text or cannot_tell(text):
        return Answer(text or CANNOT_TELL, generated=text, abstained=True, confidence=p_refusal)
    if verdict is not None:
        confidence = verdict.probability if verdict.side == "yes" else 1 - verdict.probability
    else:
        confidence = math.exp(float(log_likelihood(assistant, prompt, [text], per_token=True)[0]))
    evidence = text_evidence(assistant.aligned, slides, _as_one_text(prompt.question, text), most_evidence)
    return Answer(text, evidence, generated=text, confidence=confidence, note=verdict.note if verdict else "")


def _choice(
    assistant: LoadedAssistant,
    prompt: Prompt,
    slides: Sequence[PreparedSlide],
    p_refusal: float,
    verdict: Verdict | None,
    most_evidence: int,
) -> Answer:
    """A multiple-choice answer. Where an option itself says that the slide cannot tell, the options alone decide; where
    they are yes and no, what decides the question asked openly."""
    calibration = assistant.calibration
    probabilities = calibration.scaled(option_probabilities(assistant, [prompt])[0])
    if verdict is not None:
        probabilities = with_verdict(prompt.question, prompt.options, probabilities, verdict)
    best = int(probabilities.argmax())
    offered = any(cannot_tell(option) for option in prompt.options)
    abstained = cannot_tell(prompt.options[best]) if offered else p_refusal >= calibration.refuse_above
    withheld = abstained and not offered
    undecided = not abstained and verdict is not None and verdict.side == "undecided"
    return Answer(
        text=CANNOT_TELL if withheld else UNDECIDED if undecided else prompt.options[best],
        evidence=() if abstained else option_evidence(prompt, slides, best + 1, most_evidence),
        options=prompt.options,
        probabilities=tuple(float(p) for p in probabilities),
        generated=_written(assistant, prompt, Writing(max_new_tokens=8), None),
        abstained=abstained or undecided,
        confidence=p_refusal if withheld else None if undecided else float(probabilities[best]),
        note=verdict.note if verdict is not None and not abstained else "",
    )


def refusal_logit(assistant: LoadedAssistant, prompt: Prompt) -> float:
    """Log-odds that the assistant, given no options, answers "cannot be determined from this slide"."""
    return refusal_logits(assistant, [prompt])[0]


def refusal_logits(assistant: LoadedAssistant, prompts: Sequence[Prompt]) -> list[float]:
    """:func:`refusal_logit` of many prompts, many at a time."""
    likely = (min(one, -1e-6) for one in answer_likelihoods(assistant, prompts, CANNOT_TELL))
    return [one - math.log(-math.expm1(one)) for one in likely]


def caption(
    assistant: LoadedAssistant,
    slides: Slide | Sequence[Slide],
    *,
    most_evidence: int = 3,
    writing: Writing = Writing(max_new_tokens=400),
    stream: Callable[[str], None] | None = None,
) -> Answer:
    """Describe a slide; every sentence that speaks of something visible names the places most like it.

    Args:
        assistant, slides, writing, stream: as for :func:`ask`.
        most_evidence: places for each sentence.

    Returns:
        The caption; ``Evidence.text`` is the sentence a place belongs to. ``note`` names the sentences that no slide
        can bear out (history, names, other tests): language models write what reports say.
    """
    slides = prepared_slides(assistant, slides)
    prompt = build_prompt(assistant, CAPTION_PROMPTS[0], slides)
    text = _written(assistant, prompt, writing, stream)
    sentences = split_sentences(text)
    baseless = [one for one in sentences if not any(part.visual for part in sub_captions_of(one))]
    evidence: list[Evidence] = []
    for sentence in sentences:
        if sentence not in baseless:
            evidence += text_evidence(assistant.aligned, slides, sentence, most_evidence)
    if not baseless:
        return Answer(text, tuple(evidence), generated=text)
    shown = "; ".join(f"“{sentence}”" for sentence in baseless)
    note = f"{len(baseless)} of {len(sentences)} sentences say what no slide can show, so nothing stands behind them: "
    return Answer(text, tuple(evidence), generated=text, note=note + shown)


@dataclass
class Conversation:
    """Question after question about the same slides; what was said before is remembered.

    Attributes:
        assistant: answers. slides: what it is asked about. turns: what was said so far.
        most_turns: questions remembered; the oldest are forgotten beyond.
    """

    assistant: LoadedAssistant
    slides: tuple[PreparedSlide, ...]
    turns: tuple[Turn, ...] = ()
    most_turns: int = 6

    @classmethod
    def about(cls, assistant: LoadedAssistant, slides: Slide | Sequence[Slide]) -> "Conversation":
        """A new conversation about these slides."""
        return cls(assistant, prepared_slides(assistant, slides))

    def say(self, question: str, *, writing: Writing = GREEDY, stream: Callable[[str], None] | None = None) -> Answer:
        """Ask, and remember question and answer."""
        reply = ask(self.assistant, question, self.slides, history=self.turns, writing=writing, stream=stream)
        turns = (*self.turns, Turn("user", question), Turn("assistant", reply.text))
        self.turns = turns[-2 * self.most_turns :]
        return reply


def prepared_slides(assistant: LoadedAssistant, slides: Slide | Sequence[Slide]) -> tuple[PreparedSlide, ...]:
    """Slides ready for questions, each encoded once."""
    many = [slides] if isinstance(slides, SlideFeatures | PreparedSlide) else slides
    return tuple(prepare_slide(assistant.aligned, one) if isinstance(one, SlideFeatures) else one for one in many)


def _written(
    assistant: LoadedAssistant,
    prompt: Prompt,
    writing: Writing,
    stream: Callable[[str], None] | None,
    begin: str = "",
) -> str:
    try:
        return generate(assistant, prompt, stream=stream, begin=begin, **asdict(writing))
    except torch.OutOfMemoryError:
        raise ConfigError(
            f"out of memory while writing: {prompt.num_visual} visual tokens and up to {writing.max_new_tokens} new "
            "ones; give fewer slides, shorten the conversation, load the language model in 4 bits, or use the CPU"
        ) from None


def _as_one_text(question: str, answer: str) -> str:
    """Question and answer as one text to look for; of a yes or no what it says is there, or not there."""
    if asks_whether(question) and (side := re.match(r"\W*(yes|no)\b\W*", answer, re.IGNORECASE)):
        content = question_content(question)
        return f"no {content}" if side[1].lower() == "no" else answer[side.end() :].strip() or content
    return f"{question_content(question)} {answer}".strip()
