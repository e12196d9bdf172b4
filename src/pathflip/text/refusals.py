"""Answers that say that a slide cannot tell: the words of such an answer, and how to recognise one."""

import re

__all__ = ["CANNOT_TELL", "cannot_tell"]

CANNOT_TELL = "cannot be determined from this slide"
"""The answer to what a slide cannot show; training questions word it so."""
_CANNOT_TELL = re.compile(
    r"\b(cannot|can not|can't|could not|impossible to|unable to|not possible to)\b[^.;]{0,24}"
    r"\b(determine|determined|tell|told|see|seen|assess|assessed|say|said|judge|judged|evaluate|evaluated|answer|answered)\b"
    r"|\bnot (visible|assessable|evaluable|determinable)\b|\bindeterminate\b",
    re.IGNORECASE,
)


def cannot_tell(answer: str) -> bool:
    """Whether an answer says that the slide cannot tell ("cannot be determined …", "not visible on this slide")."""
    return bool(_CANNOT_TELL.search(answer))
