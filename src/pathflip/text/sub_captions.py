"""A sentence as sub-captions: what each states, whether this slide can show it, and whether it is affirmed or denied.

Rules one can read (the words are in :mod:`pathflip.text.cues`), the same in training and at inference. What cannot be
understood is undecided, with the reason, and never trains.
"""

import re
from dataclasses import replace
from functools import lru_cache

from pathflip.errors import CaptionError
from pathflip.text.caution import with_caution
from pathflip.text.checkboxes import CheckedLine, Option, checked_lines
from pathflip.text.choices import is_bare_answer, offers_both, without_offer
from pathflip.text.clauses import clauses_of, is_request
from pathflip.text.cues import LANGUAGES
from pathflip.text.denied_lists import visible_items
from pathflip.text.language_detection import language_of
from pathflip.text.place_lists import other_places
from pathflip.text.polarity import Polarity, affirmative_form, polarity_of, value_polarity
from pathflip.text.reach import Clause
from pathflip.text.visibility import (
    kinds_of,
    names_a_finding,
    not_visual_kind,
    says_nothing,
    visible_rest,
    weighs_the_case,
    without_asides,
)
from pathflip.types import SubCaption

__all__ = ["bare_sentence", "not_visual_kind", "parse_sub_caption", "polar_clauses", "sub_captions_of"]

_OPENING = re.compile(
    r"^(?:(?:additionally|notably|importantly|overall|microscopically|histologically|however|also|furthermore|moreover|"
    r"further|specifically|conversely|thus|hence|therefore|"
    r"consequently|accordingly|interestingly|in addition|of note|on microscopy|microscopy|comment)\s*[,:]\s*)+",
    re.IGNORECASE,
)
_BULLET = re.compile(
    r"^\s*(?:[•●▪■◦·*–—-]+\s+|[•●▪■◦‣⁃]+|[-–—*](?=[^\W_])|[(\[]?(?:\d{1,2}|[A-Za-z]|[ivxIVX]{1,4})[.)\]]\s+(?!pylori|heilmann|coli\b|difficile))(?=\S)"
)
_LEADERS = re.compile(r"\s*(?:\.{3,}|…+|(?<=\s)(?:\.\s){3,}\.?|_{3,})\s*(?=\S)")
_RESECTION_STATUS = re.compile(r"\bresidual (?:tumou?r|disease|carcinoma)\W+R[012X]\b", re.IGNORECASE)
_ANSWERED = re.compile(
    r"([a-z][^:,;.?!]{2,60}[a-z)]): (present|identified|seen|noted|found|yes)\b(?! (?:and|or|/))(.*)$"
)
_TAIL = re.compile(r",\s+(?:\w+ly )?(?:indicat|suggest|confirm|signify|show|exhibit|support)ing\b", re.IGNORECASE)
_ORDER: tuple[Polarity, ...] = ("affirmed", "denied", "undecided")


@lru_cache(maxsize=65536)  # training parses the same sentences again and again
def parse_sub_caption(sentence: str, language: str | None = None) -> SubCaption:
    """One sentence as one sub-caption; :func:`sub_captions_of` gives all it states.

    The sentence is cut into clauses ("…, but …", "… without …", "…; …"). Clauses the slide cannot show are set aside;
    of the rest the affirmative ones count; if there are none, what it denies; else what it leaves open. So "Solid
    carcinoma without necrosis" affirms *solid carcinoma*, and "No necrosis is seen, but margins are close" denies
    *necrosis*.

    ``content`` is the normal form used in training and at inference alike: the clauses that count, in lower case, each
    denial replaced by its positive counterpart ("absent" → "present", "without" → "with", "negative for" → "positive
    for", "does not show" → "shows", "no" dropped), no bullet, no opening adverb, no final stop. Hence "No necrosis
    is identified." and "Necrosis is identified." have the same content and differ in ``negated`` alone.

    Args:
        sentence: one sentence.
        language: two-letter code; found from the words where not given.

    Raises:
        CaptionError: the sentence is blank.
    """
    stated = _parsed(sentence, language)
    first = min(stated, key=lambda s: (not s.visual, _ORDER.index(s.polarity)))
    return replace(first, text=sentence.strip(), place=None)


@lru_cache(maxsize=65536)
def sub_captions_of(sentence: str, language: str | None = None) -> tuple[SubCaption, ...]:
    """All that one sentence states, each with one polarity: "glands are present but no necrosis" gives two.

    What the sentence affirms comes together in one sub-caption; each clause that denies, or stays undecided, has its
    own. A sentence of one polarity is one sub-caption with the sentence's text. ``place`` counts characters of the
    sentence as given.

    Raises:
        CaptionError: the sentence is blank.
    """
    return _parsed(sentence, language)


def polar_clauses(sentence: str) -> list[tuple[str, bool]]:
    """The clauses of a sentence, each with whether it denies. A blank sentence has none."""
    text = bare_sentence(sentence)
    if not text.strip():
        return []
    language = language_of(text)
    return [(clause.text, polarity_of(clause.text, language) == "denied") for clause in clauses_of(text, language)]


def bare_sentence(sentence: str) -> str:
    """The sentence without bullet, list number and opening adverb."""
    text = _OPENING.sub("", _BULLET.sub("", sentence.strip()))
    return _LEADERS.sub(": ", text) if "..." in text or "…" in text or "___" in text or ". . ." in text else text


def _parsed(sentence: str, language: str | None) -> tuple[SubCaption, ...]:
    if not sentence.strip():
        raise CaptionError("cannot parse an empty sentence: expected text")
    language = language or language_of(sentence)
    shorter = without_offer(sentence)
    if shorter != sentence:  # "LVI (yes/no): no"
        place = (0, len(sentence))
        return tuple(replace(one, place=place) for one in _parsed(shorter, language))
    lines = checked_lines(sentence)
    if lines:
        return tuple(one for line in lines for one in _form_line(sentence, line, language))
    return _prose(sentence, language)


# --- Prose -----------------------------------------------------------------------------------------------------------


def _prose(sentence: str, language: str) -> tuple[SubCaption, ...]:
    bare = bare_sentence(sentence)
    if offers_both(bare):
        one = _unticked(sentence.strip(), bare, (0, len(sentence)), language)
        return (replace(one, visual=not_visual_kind(bare, language) is None),)
    text = without_asides(bare, language) or sentence.strip()
    clauses = clauses_of(text, language)
    kinds = kinds_of([clause.text for clause in clauses], language)
    if text.endswith(":") or is_bare_answer(text):  # a bare heading
        kinds = ["no information"] * len(clauses)
    elif is_request(text):
        kinds = ["clinical"] * len(clauses)
    elif _RESECTION_STATUS.search(bare):
        kinds = [
            "margins" if re.search(r"\bresidual\b", clause.text, re.IGNORECASE) else kind
            for clause, kind in zip(clauses, kinds, strict=True)
        ]
    if language == "en" and (weighs_the_case(bare) or weighs_the_case(sentence)):
        kinds = ["interpretation"] * len(clauses)
    else:
        clauses, kinds = _trimmed(clauses, kinds, language)
        if language == "en" and "gross" in kinds:
            kinds = _beside_what_the_eye_sees(clauses, kinds)
    visible = [clause for clause, kind in zip(clauses, kinds, strict=True) if kind is None]
    hidden = [(clause, kind) for clause, kind in zip(clauses, kinds, strict=True) if kind is not None]
    if not visible:
        return (_joined(sentence, text, [clause for clause, _ in hidden], clauses, language, hidden[0][1]),)
    groups = _by_polarity(visible, language)
    whole = len(groups) == 1 and not hidden
    stated = [_joined(sentence, text, group, clauses, language, None, whole=whole) for group in groups]
    if hidden:
        aside = [clause for clause, _ in hidden]
        stated.append(_joined(sentence, text, aside, clauses, language, hidden[0][1], whole=False))
    return tuple(stated)


def _trimmed(clauses: list[Clause], kinds: list[str | None], language: str) -> tuple[list[Clause], list[str | None]]:
    """Clauses of which a part can be seen, in two: that part, and the whole set aside with its reason."""
    out: list[tuple[Clause, str | None]] = []
    of_shown_places = ""  # "the prostate and urethral margin are benign | but show no tumour": of the prostate, too
    for place, (clause, kind) in enumerate(zip(clauses, kinds, strict=True)):
        if kind is not None and kind == of_shown_places and not_visual_kind(clause.text, language) is None:
            out.append((clause, None))
            continue
        of_shown_places = ""
        if kind is not None and not says_nothing(clause.text, language):
            shown, rest, of_places = _shown_part(clause, [one.text for one in clauses[:place]], language)
            if shown is not None:
                out.append((shown, None))
                of_shown_places = kind if of_places else ""
            clause = rest
        out.append((clause, kind))
    return [clause for clause, _ in out], [kind for _, kind in out]


def _shown_part(clause: Clause, before: list[str], language: str) -> tuple[Clause | None, Clause, bool]:
    """What a slide can show of a clause that is set aside, the clause that is left, and whether it is of places."""
    items, of_places = (None, False) if clause.unclear else _list_that_shows(clause.text, language, before)
    if items is not None:
        return Clause(items), clause, of_places
    head = _before_its_participle(clause.text, language)
    if head is not None and kinds_of([*before, head], language)[-1] is None:
        return Clause(head), Clause(clause.text[len(head) :].strip(" ,;")), False

    def affirmed(rest: str) -> bool:
        own = kinds_of([*before, rest], language)[-1] is None
        return own and polarity_of(_from_comma(clause.text, rest), language) == "affirmed"

    rest = visible_rest(clause.text, language, affirmed)
    if rest is not None:
        return (
            Clause(rest),
            Clause(clause.text[clause.text.find(rest) + len(rest) :].strip(" ,;") or clause.text),
            False,
        )
    return None, clause, False


def _beside_what_the_eye_sees(clauses: list[Clause], kinds: list[str | None]) -> list[str | None]:
    """Beside a colour or a consistency, what is affirmed and names nothing that sections show is of the eye, too."""
    return [
        "gross"
        if kind is None and not names_a_finding(clause.text) and polarity_of(clause.text, "en") == "affirmed"
        else kind
        for clause, kind in zip(clauses, kinds, strict=True)
    ]


def _list_that_shows(clause: str, language: str, before: list[str]) -> tuple[str | None, bool]:
    """A clause with those items or places of its list alone that a slide can show, and whether these are places."""
    said = polarity_of(clause, language)
    head = _TAIL.split(clause)[0]
    asked = [clause, head] if language == "en" and said != "undecided" else []
    items = visible_items(clause, language) if said == "denied" else None
    for shorter in (items, *(other_places(text) for text in dict.fromkeys(asked))):
        if (
            shorter is not None
            and polarity_of(shorter, language) == said
            and (said == "denied" or names_a_finding(shorter))
            and kinds_of([*before, shorter], language)[-1] is None
        ):
            return shorter, shorter != items
    return None, False


def _before_its_participle(clause: str, language: str) -> str | None:
    """ "Showed no vascular invasion, adhering to a stage of pT2": the denial alone, None without such a tail."""
    tail = re.search(r",\s+(?:\w+ly )?[a-z]+ing\s", clause) if language == "en" else None
    head = clause[: tail.start()] if tail is not None else ""
    shows = head and not_visual_kind(head, language) is None and names_a_finding(head)
    return head if shows and polarity_of(head, language) == "denied" else None


def _from_comma(clause: str, rest: str) -> str:
    """A part of a clause with what leads to it: "which does not support a diagnosis of" melanoma affirms none."""
    start = clause.find(rest)
    return clause[clause.rfind(",", 0, start) + 1 : start + len(rest)]


def _by_polarity(clauses: list[Clause], language: str) -> list[list[Clause]]:
    """What is affirmed together; every other clause apart, unless all say the same."""
    judged = [(clause, _polarity(clause, language)) for clause in clauses]
    if len({polarity for _, polarity in judged}) == 1:
        return [clauses]
    affirmed = [clause for clause, polarity in judged if polarity == "affirmed"]
    others = [[clause] for clause, polarity in judged if polarity != "affirmed"]
    return [affirmed, *others] if affirmed else others


def _polarity(clause: Clause, language: str) -> Polarity:
    return "undecided" if clause.unclear else with_caution(clause.text, polarity_of(clause.text, language), language)


def _joined(
    sentence: str,
    text: str,
    chosen: list[Clause],
    clauses: list[Clause],
    language: str,
    kind: str | None,
    whole: bool = True,
) -> SubCaption:
    """One sub-caption of some of a sentence's clauses; ``whole`` keeps the sentence as its text."""
    polarities = {_polarity(clause, language) for clause in chosen}
    polarity = next(name for name in _ORDER if name in polarities)
    counting = [clause for clause in chosen if _polarity(clause, language) == polarity]
    joined = text if len(counting) == len(clauses) else ", ".join(clause.text for clause in counting)
    known = language in LANGUAGES
    content = _tidy(affirmative_form(joined, language) if known else joined) or _tidy(text) or _tidy(sentence)
    content = _answer_as_sentence(content) if language == "en" else content
    own = sentence.strip() if whole else _as_written(sentence, joined.strip(" ,;"))
    reason = kind or (None if polarity != "undecided" else "doubt" if known else f"language: {language}")
    return SubCaption(
        text=own,
        content=content,
        visual=kind is None,
        negated=polarity == "denied",
        undecided=polarity == "undecided",
        language=language,
        reason=reason,
        place=_place(sentence, own if not whole else sentence.strip()),
    )


def _as_written(sentence: str, part: str) -> str:
    """A part as it stands in the sentence, with the brackets taken out to read it ("lymphatic (L0) invasion")."""
    if "(" not in sentence or part in sentence or len(part) > 400:
        return part
    words = r"(?:\s+|\s*\([^()]*\)\s*)".join(re.escape(word) for word in part.split())
    match = re.search(words, sentence)
    return match.group() if match is not None else part


def _place(sentence: str, part: str) -> tuple[int, int]:
    start = sentence.find(part)
    if start < 0:  # clauses joined from different places
        first = part.split(", ")[0]
        start = max(0, sentence.find(first))
        return start, len(sentence.rstrip())
    return start, start + len(part)


def _tidy(text: str) -> str:
    """Lower case, single spaces, no space before a stop and none at the end."""
    return re.sub(r"\s+([,.;:)])", r"\1", " ".join(text.lower().split())).strip(" .,;:!?。")


def _answer_as_sentence(content: str) -> str:
    """A question of a form and its answer in a sentence's words: "necrosis: present" and "necrosis is present" are one.

    A text of forms and a text of sentences then train, and are searched for, in the same words.
    """
    match = _ANSWERED.match(content)
    if match is None:
        return content
    label, answer, rest = match.groups()
    last = label.rsplit(maxsplit=1)[-1]
    verb = "are" if last.endswith("s") and not last.endswith(("ss", "is", "us")) else "is"
    return f"{label} {verb} {'present' if answer == 'yes' else answer}{rest}"


# --- Forms -----------------------------------------------------------------------------------------------------------


def _form_line(sentence: str, line: CheckedLine, language: str) -> list[SubCaption]:
    """A ticked line as one sub-caption; a list of boxes without a question as one for each box."""
    if not line.label:
        return [_box(sentence, option, language) for option in line.options]
    ticked = [option for option in line.options if option.ticked]
    place = (line.start, line.end)
    text = " ".join(sentence[line.start : line.end].split())
    if not ticked:
        return [_unticked(text, line.label, place, language)]
    answers = [_answer(line.label, option.text, language) for option in ticked]
    if any(not one.visual for one in answers):
        first = next(one for one in answers if not one.visual)
    else:
        first = answers[0]
    polarity = {one.polarity for one in answers}
    clash = len(polarity) > 1
    content = "; ".join(dict.fromkeys(one.content for one in answers))
    return [
        replace(
            first,
            text=text,
            content=content,
            negated=first.negated and not clash,
            undecided=first.undecided or clash,
            reason="contradicting ticks" if clash else first.reason,
            place=place,
        )
    ]


def _answer(label: str, option: str, language: str) -> SubCaption:
    """What a label with its ticked option states."""
    stated = value_polarity(option, language) or value_polarity(option, "en")
    one = _prose(f"{label}: {option}", language)
    first = min(one, key=lambda s: (not s.visual, _ORDER.index(s.polarity)))
    if len({s.polarity for s in one}) > 1:
        first = replace(first, negated=False, undecided=True, reason="doubt")
    if stated == "blank":
        return replace(first, visual=False, negated=False, undecided=True, reason="no information")
    if stated is None or first.undecided:
        return first
    return replace(first, negated=stated == "denied", undecided=stated == "undecided", reason=first.reason)


def _box(sentence: str, option: Option, language: str) -> SubCaption:
    place = (option.start, option.end)
    text = " ".join(sentence[option.start : option.end].split())
    if not option.ticked or not option.text:
        return _unticked(text, option.text or text, place, language)
    one = _prose(option.text, language)
    first = min(one, key=lambda s: (not s.visual, _ORDER.index(s.polarity)))
    if re.match(r"\W*[✗✘]", text):  # a cross that marks, or one that strikes out
        first = replace(first, negated=False, undecided=True, reason="doubt")
    return replace(first, text=text, place=place)


def _unticked(text: str, label: str, place: tuple[int, int], language: str) -> SubCaption:
    return SubCaption(
        text=text,
        content=_tidy(label) or _tidy(text),
        visual=False,
        undecided=True,
        language=language,
        reason="not ticked",
        place=place,
    )
