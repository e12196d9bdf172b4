"""Question answering over slides: load an assistant, ask it, get an answer with the tiles behind it."""

from pathflip.assistant.answers import (
    UNDECIDED,
    Conversation,
    Writing,
    answer,
    ask,
    caption,
    refusal_logit,
    refusal_logits,
)
from pathflip.assistant.calibration import AnswerCalibration, YesOrNoCalibration, YesOrNoScores, read_answer_calibration
from pathflip.assistant.evidence import evidence_rows, evidence_to_files, tiles_of
from pathflip.assistant.generation import (
    Prompt,
    build_prompt,
    generate,
    generate_many,
    log_likelihood,
    option_probabilities,
    slide_tokens,
)
from pathflip.assistant.language_model import LanguageModelSpec, LoraSpec, build_language_model, open_language_model
from pathflip.assistant.saved_assistant import LoadedAssistant, load_assistant, save_assistant
from pathflip.assistant.visual_tokens import PreparedSlide, VisualTokenizer, prepare_slide
from pathflip.assistant.yes_or_no import (
    Verdict,
    decide,
    denies,
    places_of_yes_and_no,
    verdicts,
    with_verdict,
    yes_or_no_scores,
)

__all__ = [
    "UNDECIDED",
    "AnswerCalibration",
    "Conversation",
    "LanguageModelSpec",
    "LoadedAssistant",
    "LoraSpec",
    "PreparedSlide",
    "Prompt",
    "Verdict",
    "VisualTokenizer",
    "Writing",
    "YesOrNoCalibration",
    "YesOrNoScores",
    "answer",
    "ask",
    "build_language_model",
    "build_prompt",
    "caption",
    "decide",
    "denies",
    "evidence_rows",
    "evidence_to_files",
    "generate",
    "generate_many",
    "load_assistant",
    "log_likelihood",
    "open_language_model",
    "option_probabilities",
    "places_of_yes_and_no",
    "prepare_slide",
    "read_answer_calibration",
    "refusal_logit",
    "refusal_logits",
    "save_assistant",
    "slide_tokens",
    "tiles_of",
    "verdicts",
    "with_verdict",
    "yes_or_no_scores",
]
