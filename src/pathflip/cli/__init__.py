"""``pathflip``: one verb a job, each a thin call into the library function behind it.

Nothing heavy is imported until a verb runs. The verbs stand in files by what they work on; ``app`` holds what
they share.
"""

from pathflip.cli import (
    archive,
    ask,
    benchmarks,
    caption,
    classify,
    embeddings,
    model_verbs,
    pack,
    slides,
    verify,
    view,
    words,
)
from pathflip.cli.app import app, main

__all__ = [
    "app",
    "archive",
    "ask",
    "benchmarks",
    "caption",
    "classify",
    "embeddings",
    "main",
    "model_verbs",
    "pack",
    "slides",
    "verify",
    "view",
    "words",
]

VERB_ORDER = (
    "demo", "view", "simulate", "info", "qc", "tile", "encoders", "extract", "convert", "pack", "decompose", "train",
    "import", "export", "benchmark", "curve", "few-shot", "embed", "zero-shot", "retrieve", "index", "search",
    "ground", "calibrate", "verify", "ask", "caption", "chat",
)  # fmt: skip
"""The order of the verbs in ``--help``."""

app.registered_commands.sort(key=lambda verb: VERB_ORDER.index(verb.name or getattr(verb.callback, "__name__", "")))
