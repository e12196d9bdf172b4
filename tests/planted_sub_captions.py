"""Sub-captions true of a report, in its words or reworded, and sub-captions planted to be untrue of it."""

import re
from collections.abc import Sequence

import numpy as np

from pathflip.text.flips import flip_sub_caption
from pathflip.text.sentences import split_sentences
from pathflip.text.sub_captions import parse_sub_caption

_SWAPS = (
    ("high-grade", "low-grade"), ("left", "right"), ("well", "poorly"), ("moderately", "poorly"),
    ("focal", "extensive"),
    ("invasive", "noninvasive"), ("upper", "lower"), ("superficial", "deep"), ("acute", "chronic"), ("mild", "severe"),
    ("proximal", "distal"), ("anterior", "posterior"), ("benign", "malignant"), ("small", "large"),
)  # fmt: skip
INVENTIONS = (
    "Keratin pearls are present.", "Psammoma bodies are seen.", "There is extensive caseating granuloma formation.",
    "Signet ring cells are identified.", "Amyloid deposits are noted.", "Osteoclast-like giant cells are present.",
    "Clear cell change is seen.", "Sarcomatoid differentiation is present.", "Reed-Sternberg cells are observed.",
    "The stroma shows hyalinisation.", "Melanin pigment is present.", "Ductal carcinoma in situ is present.",
    "Tumour thrombus fills the renal vein.", "Helicobacter pylori organisms are seen.",
    "A brisk eosinophilic infiltrate is present.",
)  # fmt: skip
_REWORDINGS = (
    (r"\bis identified\b", "is seen"), (r"\bare identified\b", "are observed"), (r"\btumor\b", "tumour"),
    (r"\bshows\b", "demonstrates"), (r"\breveals\b", "shows"), (r"\bThe tumor\b", "The lesion"), (r"\bthree\b", "3"),
    (r"\btwo\b", "2"), (r"\bis present\b", "is seen"), (r"\bexhibits\b", "shows"), (r"^Additionally, ", ""),
    (r"\bmetastasis\b", "metastatic disease"), (r"\binvasion of\b", "invading"), (r"\bis absent\b", "is not seen"),
    (r"\bcentimeters\b", "cm"), (r"\bis noted\b", "is present"), (r"\bare noted\b", "are present"),
)  # fmt: skip


def reworded(sentence: str) -> str | None:
    """The same said otherwise, by rule; None where no rule applies."""
    text = sentence
    for pattern, words in _REWORDINGS:
        text = re.sub(pattern, words, text)
    text = text[:1].upper() + text[1:]
    return text if text != sentence else None


def double_flip(sentence: str, rng: np.random.Generator) -> str | None:
    """A denial of the sentence denied again: the same meaning in other words."""
    first = flip_sub_caption(sentence, rng)
    return flip_sub_caption(first, rng) if first else None


def true_sub_captions(report: str, rng: np.random.Generator) -> dict[str, list[str]]:
    """Sub-captions the report holds: as written, reworded, flipped twice, parts of a list."""
    sentences = split_sentences(report)
    texts_of: dict[str, list[str]] = {"as written": sentences, "reworded": [], "flipped twice": [], "shortened": []}
    for sentence in sentences:
        texts_of["reworded"] += [text] if (text := reworded(sentence)) else []
        texts_of["flipped twice"] += [text] if (text := double_flip(sentence, rng)) else []
        head = re.split(r", (?:measuring|which|as well as|indicating)\b", sentence)[0]
        if head != sentence and len(head.split()) >= 5 and ", " not in head:
            texts_of["shortened"].append(head + ".")
    return texts_of


def planted(report: str, others: Sequence[str], rng: np.random.Generator) -> dict[str, list[str]]:
    """Sub-captions untrue of the report, by kind. ``others``: reports of other patients."""
    sentences = split_sentences(report)
    texts_of: dict[str, list[str]] = {
        k: [] for k in ("invented", "foreign", "denial", "attribute", "number", "recombined")
    }
    low = report.lower()
    invented = INVENTIONS[int(rng.integers(len(INVENTIONS)))]
    if not any(word in low for word in re.findall(r"[a-z]{6,}", invented.lower())[:2]):
        texts_of["invented"].append(invented)
    foreign = split_sentences(others[int(rng.integers(len(others)))])
    picked = foreign[int(rng.integers(len(foreign)))]
    if picked not in report and parse_sub_caption(picked).visual:
        texts_of["foreign"].append(picked)
    for sentence in sentences:
        texts_of["denial"] += [text] if (text := flip_sub_caption(sentence, rng)) else []
        for one, other in _SWAPS:
            for old, new in ((one, other), (other, one)):
                if re.search(rf"\b{old}\b", sentence) and not re.search(rf"\b{new}\b", sentence):
                    texts_of["attribute"].append(re.sub(rf"\b{old}\b", new, sentence))
        if number := re.search(r"(?<![\w.])(\d+\.\d|\d{1,2})(?= ?(?:cm|mm|%|lymph))", sentence):
            value = float(number.group()) * 2 + 1
            text = f"{value:g}"
            if text not in report:
                texts_of["number"].append(sentence[: number.start()] + text + sentence[number.end() :])
    if len(sentences) >= 4:
        a, b = sentences[0].rstrip(".").split(), sentences[-2].rstrip(".").split()
        texts_of["recombined"].append(" ".join(a[: len(a) // 2] + b[len(b) // 2 :]) + ".")
    return texts_of
