"""An assistant ready to use: an aligned model that looks, a language model that speaks, and both on disk."""

from pathflip.assistant.answers import Conversation, Writing, answer, ask, caption, refusal_logit
from pathflip.assistant.calibration import Calibration, read_calibration
from pathflip.assistant.evidence import evidence_rows, evidence_to_files, tiles_of
from pathflip.assistant.generation import Prompt, generate, log_likelihood, option_probabilities, prompt, slide_tokens
from pathflip.assistant.language_model import LanguageModelSpec, LoraSpec, build_language_model, open_language_model
from pathflip.assistant.store import LoadedAssistant, load_assistant, save_assistant
from pathflip.assistant.visual_tokens import Looker, SlideView, view_slide

__all__ = [
    "Calibration",
    "Conversation",
    "LanguageModelSpec",
    "LoadedAssistant",
    "Looker",
    "LoraSpec",
    "Prompt",
    "SlideView",
    "Writing",
    "answer",
    "ask",
    "build_language_model",
    "caption",
    "evidence_rows",
    "evidence_to_files",
    "generate",
    "load_assistant",
    "log_likelihood",
    "open_language_model",
    "option_probabilities",
    "prompt",
    "read_calibration",
    "refusal_logit",
    "save_assistant",
    "slide_tokens",
    "tiles_of",
    "view_slide",
]
