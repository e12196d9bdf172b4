"""The words that captioning metrics count: Penn Treebank tokens in lower case, punctuation dropped.

Published captioning numbers are made with the Java PTBTokenizer of pycocoevalcap, and a metric on other tokens is
another metric. These rules follow the Penn Treebank conventions as that program applies them, quirks included (brackets
become the words ``-lrb-`` and ``-rrb-``, since it lowers them before it looks for punctuation).
"""

import re

__all__ = ["ptb_words"]

_DROPPED = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
# Abbreviations that keep their stop wherever they stand, and those that keep it only before a digit.
_KEPT_STOP = (
    r"dr|mr|mrs|ms|prof|sr|jr|st|vs|etc|ed|al|inc|ltd|co|corp|ph\.d|cf|jan|feb|mar|apr|jun|jul|aug|sep|sept|oct|nov|dec"
)
_BEFORE_DIGIT = r"no|nos|fig|figs|art|p|pp|vol|ca"
_NUMBER = r"\d+(?:,\d{3})*(?:\.\d+)?"
_TOKEN = re.compile(
    rf"""
    \b(?:[a-z]\.){{2,}}                                   # e.g. a.m. u.s.
  | \b(?:{_KEPT_STOP})\.(?=\s)
  | \b(?:{_BEFORE_DIGIT})\.(?=\s*\d)
  | ca(?=n't\b) | can(?=not\b) | (?<=can)not\b            # ca n't, can not
  | [a-z]+(?=n't\b) | n't\b | '(?:s|re|ve|ll|d|m)\b
  | \d+(?:[-/:]\d+)+(?![a-z])                             # 0/12 10:30 2012-05-03
  | [a-z\d]+(?:-[a-z\d]+)+                                # high-grade
  | [a-z\d]+(?:/[a-z\d]+)+(?!-[a-z]) | [a-z]+(?:&[a-z]+)+ # her2/neu h&e
  | o'clock\b | [a-z](?:\.[a-z\d]+)+
  | (?<=[a-z\d])\.\d+                                     # c34 .3
  | [+-]?\d+\.\d+ | [+-]?{_NUMBER}(?![a-z\d])
  | [a-z\d]+
  | \.{{2,}} | -{{2,}} | ``|''
  | \S
    """,
    re.VERBOSE,
)


def ptb_words(text: str) -> list[str]:
    """The words of ``text`` in order; how near they are to the Java tool's: docs/language-metrics.md."""
    lowered = " ".join(text.lower().replace("’", "'").replace("“", '"').replace("”", '"').split())
    words = (_BRACKETS.get(word, word) for word in _TOKEN.findall(lowered))
    return [word for word in words if word not in _DROPPED and word.strip('.…–—"')]
