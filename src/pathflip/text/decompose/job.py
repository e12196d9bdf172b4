"""The whole job: reports in, guard, ask or split, check against the report, captions out."""

import json
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from pathflip.errors import CaptionError, ConfigError
from pathflip.io.files import write_text
from pathflip.io.slide_id import slide_id
from pathflip.io.tables import PLAIN, TableOptions, read_utf8
from pathflip.text.captions import identity_row, patient_of, read_caption_table
from pathflip.text.cues import cues_of
from pathflip.text.decompose.cache import ReplyCache
from pathflip.text.decompose.identifiers import find_identifiers, redact
from pathflip.text.decompose.local import LocalSpec, ask_local, fingerprint
from pathflip.text.decompose.replies import ReplySubCaption, prompt
from pathflip.text.decompose.server import ServerSpec, Usage, ask_server, is_local
from pathflip.text.decompose.support import Source
from pathflip.text.language_detection import language_of_file
from pathflip.text.language_models import find_language_model
from pathflip.text.reports import read_report
from pathflip.text.sentences import split_sentences
from pathflip.text.sub_captions import parse_sub_caption
from pathflip.types import Caption, SubCaption

__all__ = [
    "DecomposeSpec",
    "Decomposed",
    "DecomposedSubCaption",
    "decompose_reports",
    "pending_reports",
    "read_reports",
    "write_decomposed",
]


class DecomposeSpec(BaseModel):
    """How reports are taken apart.

    Attributes:
        by: a server, a local model, or None for the built-in rules.
        cache: folder where answers are kept.
        identifiers: what to do about text that may identify somebody and would leave this machine: "refuse", "allow" or
            "redact" (which takes it out for every model, near or far).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    by: ServerSpec | LocalSpec | None = None
    cache: Path | None = None
    identifiers: Literal["refuse", "allow", "redact"] = "refuse"


@dataclass(frozen=True)
class DecomposedSubCaption:
    """A sub-caption; ``unsupported`` says what in it the report does not state, ``reason`` why it is not visible or
    undecided, ``place`` where it stands in the text written beside it."""

    text: str
    content: str
    visual: bool
    negated: bool
    concept: str | None = None
    unsupported: tuple[str, ...] = ()
    undecided: bool = False
    reason: str | None = None
    part: str | None = None
    section: str | None = None
    language: str | None = None
    place: tuple[int, int] | None = None

    def row(self) -> dict[str, Any]:
        """The sub-caption as it stands in the file."""
        row: dict[str, Any] = {"text": self.text, "content": self.content}
        row |= {"concept": self.concept} if self.concept else {}
        polarity = "undecided" if self.undecided else "denied" if self.negated else "affirmed"
        row |= {"visual": self.visual, "negated": self.negated, "polarity": polarity}
        where = {"reason": self.reason, "part": self.part, "section": self.section, "language": self.language}
        row |= {name: value for name, value in where.items() if value}
        row |= {"place": list(self.place)} if self.place else {}
        return row | ({"unsupported": list(self.unsupported)} if self.unsupported else {})


@dataclass(frozen=True)
class Decomposed:
    """A report taken apart, or why it was not. ``covered``: fraction of its words that a sub-caption holds."""

    slide_id: str
    patient: str
    text: str
    sub_captions: tuple[DecomposedSubCaption, ...] = ()
    covered: float = 0.0
    by: str = "rules"
    error: str | None = None
    from_cache: bool = field(default=False, compare=False)
    identity: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """Whose report it is, as its row says it; empty: the slide's."""


def read_reports(path: Path, options: TableOptions = PLAIN) -> tuple[list[Caption], list[str]]:
    """Reports of a caption file, or of a folder of ``.txt`` files named after their slides; and what cannot be used.

    Raises:
        CaptionError: nothing can be read.
    """
    if not path.is_dir() or (any(path.glob("*/*.txt")) and not any(path.glob("*.txt"))):
        table = read_caption_table(path, options, whole_reports=True)
        for note in table.notes:
            warnings.warn(f"{path.name}: {note}", stacklevel=2)
        return table.captions, table.problems
    captions, problems = [], []
    for file in sorted(p for p in path.glob("*.txt") if not p.name.startswith(".")):
        try:
            text = read_utf8(file, "a report", options.encoding).strip()
        except CaptionError as error:
            problems.append(str(error))
            continue
        if not split_sentences(text):
            problems.append(f"{file.name}: holds no sentence")
            continue
        name = slide_id(file)
        captions.append(Caption(name, patient_of(name), text, ()))
    if not captions and not problems:
        raise CaptionError(f"'{path}' holds no .txt file; expected one report a file, or a caption file")
    return captions, problems


def decompose_reports(
    reports: Sequence[Caption],
    spec: DecomposeSpec,
    *,
    usage: Usage | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Decomposed]:
    """Take reports apart. A report that fails bears its error; the rest goes on.

    Args:
        reports: their ``text`` is used; ready-made sub-captions are not.
        usage: filled with what a server was asked.
        progress: called with reports done and their number.

    Raises:
        ConfigError: text with identifiers would leave this machine.
        ServerError: the server cannot be reached or refuses everything; answers so far are in the cache.
    """
    guard(reports, spec)
    texts = [_sent(report.text, spec) for report in reports]
    outcomes: dict[int, list[ReplySubCaption] | str] = {}
    cached = _cached_replies(texts, spec)
    outcomes.update(cached)
    if spec.by is not None:
        _ask(texts, spec, outcomes, usage or Usage(), progress)
    done = []
    language = language_of_file(report.text for report in reports)
    for place, (report, text) in enumerate(zip(reports, texts, strict=True)):
        done.append(_decomposed(report, text, spec, outcomes.get(place), place in cached, language))
        progress(place + 1, len(reports)) if spec.by is None else None
    return done


def guard(reports: Sequence[Caption], spec: DecomposeSpec) -> int:
    """Reports with identifiers, in every mode (0 where they are taken out).

    Raises:
        ConfigError: they would leave this machine and nobody allowed it.
    """
    if spec.identifiers == "redact":
        return 0
    by_slide = {report.slide_id: items for report in reports if (items := find_identifiers(report.text))}
    away = isinstance(spec.by, ServerSpec) and not is_local(spec.by.url)
    if by_slide and away and spec.identifiers == "refuse":
        kinds = sorted({item.kind for items in by_slide.values() for item in items})
        slide = next(iter(by_slide))
        raise ConfigError(
            f"{len(by_slide)} of {len(reports)} reports hold what may identify somebody ({', '.join(kinds)}; first in "
            f"'{slide}'), and {spec.by.url} is not this machine: nothing was sent; "  # type: ignore[union-attr]
            "take it out with --redact, or give --allow-identifiers if that is lawful"
        )
    return len(by_slide)


def pending_reports(reports: Sequence[Caption], spec: DecomposeSpec) -> list[str]:
    """The texts that would be sent: those without an answer in the cache."""
    texts = [_sent(report.text, spec) for report in reports]
    cached = _cached_replies(texts, spec)
    return [text for place, text in enumerate(texts) if place not in cached]


def _sent(text: str, spec: DecomposeSpec) -> str:
    return redact(text) if spec.identifiers == "redact" else text


def _model_name(spec: DecomposeSpec) -> str:
    if isinstance(spec.by, LocalSpec):
        return fingerprint(find_language_model(spec.by.model))
    return spec.by.model if spec.by else "rules"


def _cached_replies(texts: Sequence[str], spec: DecomposeSpec) -> dict[int, list[ReplySubCaption]]:
    if spec.by is None or spec.cache is None:
        return {}
    cache, name = ReplyCache(spec.cache), _model_name(spec)
    cached = ((place, cache.get(name, spec.by.parameters, text)) for place, text in enumerate(texts))
    return {place: sub_captions for place, sub_captions in cached if sub_captions is not None}


def _ask(
    texts: Sequence[str],
    spec: DecomposeSpec,
    outcomes: dict[int, list[ReplySubCaption] | str],
    usage: Usage,
    progress: Callable[[int, int], None],
) -> None:
    """Ask about texts without an outcome, each wording once, and keep every answer as it comes."""
    assert spec.by is not None
    cache, name = (ReplyCache(spec.cache) if spec.cache else None), _model_name(spec)
    places: dict[str, list[int]] = {}
    for place, text in enumerate(texts):
        if place not in outcomes:
            places.setdefault(text, []).append(place)
    distinct = {same[0]: text for text, same in places.items()}
    parameters = spec.by.parameters

    def on_reply(place: int, outcome: list[ReplySubCaption] | str) -> None:
        if cache and not isinstance(outcome, str):
            cache.put(name, parameters, texts[place], outcome)
        for same in places[texts[place]]:
            outcomes[same] = outcome
        progress(len(outcomes), len(texts))

    if not distinct:
        return
    if isinstance(spec.by, ServerSpec):
        ask_server(distinct, spec.by, on_reply, usage)
    else:
        ask_local(distinct, spec.by, on_reply)


def _decomposed(
    report: Caption,
    text: str,
    spec: DecomposeSpec,
    outcome: list[ReplySubCaption] | str | None,
    from_cache: bool,
    file_language: str,
) -> Decomposed:
    by = "rules" if spec.by is None else f"{spec.by.by} {Path(spec.by.model).name}, prompt {prompt().version}"
    whole = Decomposed(
        report.slide_id, report.patient, text, by=by, from_cache=from_cache, identity=identity_row(report)
    )
    if isinstance(outcome, str):
        return Decomposed(**{**vars(whole), "error": outcome})
    if spec.by is None:
        sub_captions = tuple(_by_rules(one, spec) for one in _own_sub_captions(report, file_language))
        return Decomposed(**{**vars(whole), "sub_captions": sub_captions, "covered": 1.0})
    source = Source(text)
    sub_captions = tuple(_checked(one, source) for one in outcome or ())
    covered = source.coverage(sub_caption.text for sub_caption in sub_captions if not sub_caption.unsupported)
    return Decomposed(**{**vars(whole), "sub_captions": sub_captions, "covered": round(covered, 3)})


def _own_sub_captions(report: Caption, file_language: str) -> tuple[SubCaption, ...]:
    """What the rules read in the report; a caption file's reader has done so for the part the row names."""
    if report.sub_captions and all(one.place for one in report.sub_captions):
        return report.sub_captions
    return read_report(report.text, file_language).sub_captions()


def _by_rules(one: SubCaption, spec: DecomposeSpec) -> DecomposedSubCaption:
    """A sub-caption as it is written; without names, dates and numbers of persons where they are to be taken out."""
    text = redact(one.text) if spec.identifiers == "redact" else one.text
    content = one.content if text == one.text else parse_sub_caption(text, one.language).content
    return DecomposedSubCaption(
        text,
        content,
        one.visual,
        one.negated,
        _concept_of(content),
        undecided=one.undecided,
        reason=one.reason,
        part=one.part,
        section=one.section,
        language=one.language,
        place=one.place if spec.identifiers != "redact" else None,
    )


def _concept_of(content: str) -> str | None:
    """The finding's short name, where a sub-caption speaks of one thing in a few words."""
    label = content.partition(":")[0] if ":" in content else content
    words = [word for word in re.findall(r"[\w'-]+", label) if word not in cues_of("en").frame]
    listed = re.search(r"[,;/]|\b(?:and|or|und|oder|et|ou|y|o)\b", label)
    return " ".join(words) if 0 < len(words) <= 4 and not listed else None


def _caption_text(item: Decomposed) -> str:
    """What trains as the caption: the report, or of a report of sections or parts what its slide can show."""
    if not any(one.part or one.section for one in item.sub_captions):
        return item.text
    shown = [one.text for one in item.sub_captions if one.visual and not one.undecided]
    return " ".join(dict.fromkeys(shown)) or item.text


def _checked(reply: ReplySubCaption, source: Source) -> DecomposedSubCaption:
    """A model's sub-caption with the rules' reading of its words, and what is wrong with it.

    Whether it denies is read from its words by the rules that training and inference share; where the model says
    otherwise, one of the two is wrong and the sub-caption is flagged.
    """
    parsed = parse_sub_caption(reply.text)
    problems = list(source.problems(reply.text))
    if parsed.negated != (reply.polarity == "absent"):
        problems.append(
            f"polarity: the words say {'absent' if parsed.negated else 'present'}, the model {reply.polarity}"
        )
    concept = " ".join(reply.concept.split()) or None
    return DecomposedSubCaption(reply.text, parsed.content, reply.visual, parsed.negated, concept, tuple(problems))


def failures_beside(path: Path) -> Path:
    """Where the failures of a result go."""
    return path.with_name(f"{path.stem}.failures.jsonl")


def write_decomposed(path: Path, done: Iterable[Decomposed], *, keep_unsupported: bool = False) -> dict[str, Any]:
    """Write what ``read_captions`` reads: one row a report; what failed goes to ``<name>.failures.jsonl``.

    Sub-captions that are not supported stand apart under ``flagged``, where training does not look, unless
    ``keep_unsupported``.

    Returns:
        Counts: reports, subcaptions, flagged, visual, failed, from_cache, covered (mean).
    """
    lines, failures, covered = [], [], []
    reasons: Counter[str] = Counter()
    count = dict.fromkeys(("reports", "subcaptions", "visual", "undecided", "flagged", "failed", "from_cache"), 0)
    for item in done:
        if item.error is not None:
            failures.append(json.dumps({"slide": item.slide_id, "error": item.error}, ensure_ascii=False))
            count["failed"] += 1
            continue
        supported = [s for s in item.sub_captions if keep_unsupported or not s.unsupported]
        flagged = [s for s in item.sub_captions if s.unsupported]
        text = _caption_text(item)
        row = dict(item.identity or {"slide": item.slide_id, "patient": item.patient}) | {"text": text}
        row |= {"report": item.text} if text != item.text else {}
        row |= {"subcaptions": [s.row() for s in supported], "covered": item.covered, "decomposed_by": item.by}
        row |= {"flagged": [s.row() for s in flagged]} if flagged and not keep_unsupported else {}
        lines.append(json.dumps(row, ensure_ascii=False))
        covered.append(item.covered)
        count["reports"] += 1
        count["from_cache"] += item.from_cache
        count["subcaptions"] += len(supported)
        count["visual"] += sum(s.visual for s in supported)
        count["undecided"] += sum(s.visual and s.undecided for s in supported)
        reasons.update(str(s.reason) for s in supported if s.reason)
        count["flagged"] += len(flagged)
    if lines or not failures:  # where nothing succeeded, an earlier result stays
        write_text(path, "".join(line + "\n" for line in lines))
    beside = failures_beside(path)
    if failures:
        write_text(beside, "".join(line + "\n" for line in failures))
    else:
        beside.unlink(missing_ok=True)
    set_aside = dict(reasons.most_common())
    return {
        "out": str(path),
        **count,
        "set_aside": set_aside,
        "covered": round(sum(covered) / len(covered), 3) if covered else 0.0,
    }
