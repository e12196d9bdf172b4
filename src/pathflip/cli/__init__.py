"""``pathflip``: one verb a job, each a thin call into the library function behind it.

Nothing heavy is imported until a verb runs. The verbs stand in files by what they work on; ``app`` holds what
they share.
"""

from pathflip.cli import alignment, answers, language, reports, slides
from pathflip.cli.app import app, main

__all__ = ["alignment", "answers", "app", "language", "main", "reports", "slides"]
