"""Reports as exported to plain text: HTML, RTF, entities, control characters, mojibake.

Each repair is noted, so that a person can be told what was done to a text. Well-kept libraries do the work: Beautiful
Soup (HTML), striprtf (RTF), ftfy (mojibake).
"""

import html
import re
import unicodedata
from dataclasses import dataclass

__all__ = ["PlainText", "plain_text"]

_TAG = re.compile(
    r"</?(?:html|head|body|br|p|b|i|u|em|strong|div|span|font|table|thead|tbody|tr|td|th|ul|ol|li|h[1-6]|sup|sub|hr|pre|"
    r"center|small|a|style|title|meta|s|del|ins|strike|input|label|form|select|option|textarea|mark)(?:\s[^<>]*)?/?>",
    re.IGNORECASE,
)
_ENTITY = re.compile(r"&(?:[a-zA-Z]{2,8}|#\d{1,6}|#x[0-9a-fA-F]{1,5});")
_STRUCK = re.compile(r"line-through|display:\s*none", re.IGNORECASE)
_RTF_STRUCK = re.compile(r"\{\\strike(?!0)\b[^{}]*\}|\\strike(?!0)\b.*?(?:\\strike0\b|\\plain\b|\\par\b)", re.DOTALL)
_RTF_RESIDUE = re.compile(
    r"\\(?:par|pard|plain|fs\d+|f\d|b0|i0|ul(?:none)?|tab|line|'[0-9a-f]{2}|u-?\d+\??)(?![a-zA-Z])"
)
_ZERO_WIDTH = re.compile("[\u00ad\u200b-\u200f\u2060-\u2064\ufeff\u202a-\u202e\u2066-\u2069]")
# A line of a paragraph that plainly goes on behind an empty line, as exports leave it that make each line a paragraph.
_EMPTY_WITHIN = re.compile(r"(?m)^(?P<line>.{40,}[^\s.!?;:。！？])(?P<gap>[ \t]*\n(?:[ \t]*\n)+)(?=[ \t]*[a-zß-ÿ])")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_BLOCKS = (
    "p",
    "div",
    "tr",
    "li",
    "ul",
    "ol",
    "table",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "hr",
    "pre",
    "title",
    "center",
)


@dataclass(frozen=True)
class PlainText:
    """The text, and what was done to it ("HTML", "RTF", "mojibake repaired", "3 characters lost", …)."""

    text: str
    notes: tuple[str, ...] = ()


def plain_text(raw: str) -> PlainText:
    """The words of a report without the marks of the program it came from.

    Line ends are ``\\n``; control characters become spaces; zero-width characters go. Nothing else is changed in a text
    that needs no repair, so places in it stay what they were.
    """
    notes: list[str] = []
    text = raw
    if text.lstrip().startswith("{\\rtf") or len(_RTF_RESIDUE.findall(text)) >= 2:
        text = _from_rtf(text)
        notes.append("RTF")
    if _TAG.search(text):
        text = _from_html(text)
        notes.append("HTML")
    elif _ENTITY.search(text) and html.unescape(text) != text:
        text = html.unescape(text)
        notes.append("entities")
    text = _repaired(text, notes)
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\\.br\\", "\n").replace("_x000D_", "\n")
    text = text.replace("\u2028", "\n").replace("\u2029", "\n\n").replace("\u00a0", " ").replace("\u202f", " ")
    if "\n" not in text and "\\n" in text:  # line ends written out by an export
        text = text.replace("\\r\\n", "\n").replace("\\n", "\n")
        notes.append("line ends written as \\n")
    text = _EMPTY_WITHIN.sub(lambda match: match["line"] + " " * (len(match["gap"]) - 1) + "\n", text)
    if _CONTROL.search(text):
        text = _CONTROL.sub(" ", text)
        notes.append("control characters")
    if _ZERO_WIDTH.search(text):
        text = _ZERO_WIDTH.sub("", text)
        notes.append("zero-width characters")
    if lost := text.count("\ufffd"):
        notes.append(f"{lost} characters lost in an earlier conversion")
    return PlainText(unicodedata.normalize("NFC", text), tuple(notes))


def _from_rtf(text: str) -> str:
    from striprtf.striprtf import rtf_to_text

    text = _RTF_STRUCK.sub(lambda match: "\\par " if match.group().endswith("\\par") else " ", text)
    source = text if text.lstrip().startswith("{\\rtf") else "{\\rtf1\\ansi " + text.replace("\n", "\\par ") + "}"
    try:
        plain: str = rtf_to_text(source, errors="ignore")
    except (ValueError, LookupError, IndexError, TypeError):  # damaged RTF: at least the words
        plain = re.sub(r"\\[a-zA-Z]+-?\d* ?|[{}]", " ", text)
    return plain


def _from_html(text: str) -> str:
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(text, "html.parser")
    for gone in [*soup(["script", "style", "head", "s", "del", "strike"]), *soup(style=_STRUCK)]:
        gone.decompose()
    for field in soup("input"):
        kind = str(field.get("type", "text")).lower()
        mark = "☒" if field.has_attr("checked") else "☐"
        field.replace_with(f" {mark} " if kind in ("checkbox", "radio") else f" {field.get('value', '')} ")
    for option in soup("option"):
        if not option.has_attr("selected"):
            option.decompose()
    for row in soup("tr"):
        cells = row.find_all(["td", "th"])
        for cell in cells[:-1]:
            cell.append(": " if len(cells) == 2 else " | ")
    for line in soup("br"):
        line.replace_with("\n")
    for tag in soup(_BLOCKS):
        tag.insert_before("\n")
        tag.append("\n")
    return re.sub(r":\s*:", ":", soup.get_text())


def _repaired(text: str, notes: list[str]) -> str:
    """The text with mojibake ("nÃ©crose") repaired, where that is certain."""
    if text.isascii():
        return text
    import ftfy

    repaired: str = ftfy.fix_encoding(text)
    if repaired != text:
        notes.append("mojibake repaired")
    return repaired
