"""Question answering over slides: load an assistant, ask it, get an answer with the tiles behind it."""

from pathflip.assistant.answers import Conversation, Writing, answer, ask, caption, refusal_logit
from pathflip.assistant.calibration import AnswerCalibration, read_answer_calibration
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

__all__ = [
    "AnswerCalibration",
    "Conversation",
    "LanguageModelSpec",
    "LoadedAssistant",
    "LoraSpec",
    "PreparedSlide",
    "Prompt",
    "VisualTokenizer",
    "Writing",
    "answer",
    "ask",
    "build_language_model",
    "build_prompt",
    "caption",
    "evidence_rows",
    "evidence_to_files",
    "generate",
    "generate_many",
    "load_assistant",
    "log_likelihood",
    "open_language_model",
    "option_probabilities",
    "prepare_slide",
    "read_answer_calibration",
    "refusal_logit",
    "save_assistant",
    "slide_tokens",
    "tiles_of",
]
