"""Reports joined with the feature files of their slides: items to train and to measure with.

A report of one slide is joined by the slide's id (:func:`~pathflip.io.slide_id.join_ids`). The slides of a case may
also be named by their folder: ``CASE__NAME.h5``, as ``pathflip extract`` calls slides of equal file names, or
``CASE/NAME.h5``. What has no partner is counted and named, never dropped in silence.
"""

import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path

from pathflip.errors import CaptionError
from pathflip.io.slide_id import join_ids, paths_by_id
from pathflip.text.case_tables import case_with_slides, parts_of_slide, slides_of
from pathflip.types import Caption, Case, CaseSlide

__all__ = [
    "Item",
    "Joined",
    "by_part",
    "captions_by_part",
    "captions_of_cases",
    "cases_of_folders",
    "join_reports",
    "name_digest",
    "pair_reports",
    "with_findings",
]

_SHOWN = 3
_TCGA = re.compile(r"^TCGA-[A-Z0-9]{2}-[A-Z0-9]{4}$")


@dataclass(frozen=True)
class Item:
    """A report and the feature files of its slides, in the order of ``slides_of(caption)``; at least one.

    ``as_read`` is the report before it was narrowed to the slides at hand.
    """

    caption: Caption
    files: tuple[Path, ...]
    as_read: Caption

    @property
    def name(self) -> str:
        """The name of this item in results: the slide's, or the case's."""
        return self.caption.slide_id


@dataclass(frozen=True)
class Joined:
    """Reports with their files, and what is left over.

    Attributes:
        items: sorted by name.
        lonely_files: slides without a report. lonely_captions: reports without any file.
        incomplete: cases that have files of some of their slides only; they stand among the items, too.
    """

    items: list[Item]
    lonely_files: dict[str, Path] = field(default_factory=dict)
    lonely_captions: list[Caption] = field(default_factory=list)
    incomplete: list[str] = field(default_factory=list)

    def leftovers(self) -> str:
        """What has no partner, counted; "" where all has one."""
        parts = [
            (sorted(self.lonely_files), "without a caption"),
            (sorted(caption.slide_id for caption in self.lonely_captions), "without features"),
            (sorted(self.incomplete), "with features of some of their slides only"),
        ]
        if not any(names for names, _ in parts):
            return ""
        counted = [f"{some(names)} {what}" for names, what in parts if names or what != parts[2][1]]
        return ", ".join(counted)


def some(names: Sequence[str]) -> str:
    """How many there are, and the first of them."""
    return f"{len(names)} ({', '.join(names[:_SHOWN])}{', …' if len(names) > _SHOWN else ''})" if names else "0"


def pair_reports(files: Sequence[Path], captions: Sequence[Caption], allow_missing: bool = False) -> list[Item]:
    """Every report with its files.

    Args:
        allow_missing: pass over what has no partner, with a warning that counts it.

    Raises:
        CaptionError: something has no partner (all is counted), or nothing has one.
    """
    joined = join_reports(files, captions)
    if left := joined.leftovers():
        line = f"slides and captions do not match: {left}"
        if not allow_missing or not joined.items:
            raise CaptionError(
                f"{line}; expected one of each; add what is missing, restrict the split, or pass them over with "
                "--allow-missing"
            )
        warnings.warn(f"{line}: passed over", stacklevel=3)
    return joined.items


def join_reports(files: Sequence[Path], captions: Sequence[Caption]) -> Joined:
    """Reports and files by name; see the module's docstring for the rule.

    Raises:
        CaptionError: a name fits several files, or two names, or two reports, one file.
    """
    by_id = paths_by_id(files)
    id_of = _ids_of_slides([slide for caption in captions for slide in slides_of(caption)], by_id)
    owner: dict[str, str] = {}
    items: list[Item] = []
    lonely: list[Caption] = []
    incomplete: list[str] = []
    for caption in captions:
        slides = slides_of(caption) or _slides_in_folder(caption, by_id)
        named = [replace(one, slide_id=id_of.get(one.slide_id, one.slide_id)) for one in slides]
        at_hand = [one for one in named if one.slide_id in by_id]
        for one in at_hand:
            if (other := owner.setdefault(one.slide_id, caption.slide_id)) != caption.slide_id:
                raise CaptionError(
                    f"'{other}' and '{caption.slide_id}' both mean slide '{one.slide_id}'; expected one report a slide"
                )
        if not at_hand:
            lonely.append(caption)
            continue
        if len(at_hand) < len(slides):
            incomplete.append(caption.slide_id)
        items.append(Item(_named(caption, at_hand), tuple(by_id[one.slide_id] for one in at_hand), caption))
    lonely_files = {name: file for name, file in by_id.items() if name not in owner}
    return Joined(sorted(items, key=lambda item: item.name), lonely_files, lonely, incomplete)


def _named(caption: Caption, slides: Sequence[CaseSlide]) -> Caption:
    """The report under the names of its files."""
    if not isinstance(caption, Case):
        return replace(caption, slide_id=slides[0].slide_id)
    case = case_with_slides(caption, slides)
    return replace(case, slide_id=slides[0].slide_id) if len(slides) == len(caption.slides) == 1 else case


def _ids_of_slides(slides: Iterable[CaseSlide], by_id: Mapping[str, Path]) -> dict[str, str]:
    """The file's id of every slide's name, where there is one."""
    id_of: dict[str, str] = {}
    rest: list[str] = []
    for slide in slides:
        bare = slide.slide_id.removeprefix(f"{slide.folder}__") if slide.folder else slide.slide_id
        if slide.folder and f"{slide.folder}__{bare}" in by_id:
            id_of[slide.slide_id] = f"{slide.folder}__{bare}"
        elif slide.slide_id not in by_id and bare in by_id and by_id[bare].absolute().parent.name == slide.folder:
            id_of[slide.slide_id] = bare
        else:
            rest.append(slide.slide_id)
    return join_ids(rest, by_id) | id_of


def _slides_in_folder(caption: Caption, by_id: Mapping[str, Path]) -> tuple[CaseSlide, ...]:
    """The slides of a case that names none: in its folder, called after it, or of its TCGA patient."""
    case = caption.case_id if isinstance(caption, Case) else caption.slide_id
    return tuple(
        CaseSlide(name, folder=case)
        for name, file in sorted(by_id.items())
        if name == case
        or name.startswith(f"{case}__")
        or file.absolute().parent.name == case
        or (_TCGA.match(case) is not None and name.startswith(f"{case}-"))
    )


def cases_of_folders(files: Sequence[Path]) -> list[Case]:
    """Cases without a report, one a folder: of ``CASE__NAME.h5`` and of ``CASE/NAME.h5``, where there are several
    folders. Every other file is a case of its own.
    """
    by_id = paths_by_id(files)
    parents = {file.absolute().parent for file in by_id.values()}
    slides: dict[str, list[str]] = {}
    for name, file in sorted(by_id.items()):
        case = name.partition("__")[0] if "__" in name else file.absolute().parent.name if len(parents) > 1 else name
        slides.setdefault(case, []).append(name)
    return [
        Case(case if len(names) > 1 else names[0], case, "", (), case, tuple(CaseSlide(name) for name in names))
        for case, names in slides.items()
    ]


def by_part(items: Sequence[Item]) -> list[Item]:
    """The items, those of cases with slides of several parts as one item a part (``CASE__A``).

    A denial holds for its part alone: over the slides of the whole case, "B. No necrosis." would deny the necrosis that
    part A has. A case stays whole where it has slides of one part. It also does where the part of one of its slides is
    not known, or several; then what one part denies is undecided.
    """
    return [one for item in items for one in _parts_of_item(item)]


def captions_by_part(files: Sequence[Path], captions: Sequence[Caption]) -> list[Caption]:
    """The captions in their order, those of cases with slides of several parts as one a part (see :func:`by_part`)."""
    parts: dict[str, list[Caption]] = {}
    for item in by_part(join_reports(files, captions).items):
        parts.setdefault(item.as_read.slide_id, []).append(item.caption)
    several = {name: own for name, own in parts.items() if len(own) > 1}
    return [part for one in captions for part in several.get(one.slide_id, [one])]


def captions_of_cases(captions: Sequence[Caption], cases: Sequence[Case]) -> list[Caption]:
    """The captions with those of one case, told by a table of cases, as one report about all its slides.

    A caption belongs to a case by the case's name, or by its slide's. Slides of a case with different reports stay
    apart, as do captions of no case.

    Args:
        captions: as read. cases: as :func:`~pathflip.text.case_tables.read_cases` gives them.
    """
    of_name = {case.slide_id: case for case in cases}
    of_slide = {slide.slide_id: case for case in cases for slide in case.slides}
    joined: dict[tuple[str, str], Caption] = {}
    texts: dict[str, set[str]] = {}
    for one in captions:
        case = of_name.get(one.slide_id) or of_slide.get(one.slide_id)
        if case is not None and not isinstance(one, Case):
            texts.setdefault(case.slide_id, set()).add(one.text)
    for one in captions:
        case = of_name.get(one.slide_id) or of_slide.get(one.slide_id)
        if case is None or isinstance(one, Case) or len(texts[case.slide_id]) > 1:
            joined[one.slide_id, ""] = one
        else:
            whole = Case(case.slide_id, one.patient, one.text, one.sub_captions, case.case_id, case.slides, case.parts)
            joined.setdefault((case.slide_id, "case"), whole)
    return list(joined.values())


def _parts_of_item(item: Item) -> list[Item]:
    case = item.caption
    if not isinstance(case, Case) or len(case.parts) < 2:
        return [item]
    places: dict[str, list[int]] = {}
    for place, slide in enumerate(case.slides):
        labels = parts_of_slide(slide, case.parts)
        if len(labels) != 1:
            return [replace(item, caption=_without_denials_of_parts(case))]
        places.setdefault(labels.pop(), []).append(place)
    if len(places) < 2:
        return [item]
    parts = []
    for label, own in sorted(places.items()):
        narrowed = case_with_slides(case, [case.slides[place] for place in own])
        name = f"{case.slide_id}__{label}"
        parts.append(Item(replace(narrowed, slide_id=name), tuple(item.files[place] for place in own), item.as_read))
    return parts


def _without_denials_of_parts(case: Case) -> Case:
    """The case with undecided what not all of its parts deny: its slides may be of the others."""
    every = set(case.parts)
    sub_captions = tuple(
        replace(one, negated=False, undecided=True, reason="a denial of one part, and the slides may be of another")
        if one.decided and one.negated and one.part is not None and set(one.part.split(", ")) != every
        else one
        for one in case.sub_captions
    )
    return replace(case, sub_captions=sub_captions)


def with_findings(items: Sequence[Item], what: str) -> list[Item]:
    """The items whose report states something that their slides can show; the others are named in a warning.

    A report of clinical history alone, one in an unknown language, and one whose findings belong to no slide at hand
    have nothing to learn from or to be measured by.

    Args:
        what: they are left out of ("training").

    Raises:
        CaptionError: none is left.
    """
    silent: dict[str, list[str]] = {}
    usable = []
    for item in items:
        sub_captions = item.caption.sub_captions
        if not sub_captions or any(one.decided for one in sub_captions):
            usable.append(item)
            continue
        undecided = all(one.undecided for one in sub_captions)
        why = "every sentence of the report is undecided" if undecided else _nothing_visible(item.caption)
        silent.setdefault(why, []).append(item.name)
    line = "; ".join(f"{why}: {some(sorted(names))}" for why, names in silent.items())
    if silent and not usable:
        raise CaptionError(f"no report states anything its slides can show: {line}; see pathflip decompose")
    if silent:
        warnings.warn(f"left out of {what}, {line}", stacklevel=3)
    return usable


def _nothing_visible(caption: Caption) -> str:
    """What a report holds that no slide shows: its commonest kind of section, or reason."""
    kinds = Counter(str(one.section or one.reason or "other") for one in caption.sub_captions)
    return f"the report holds nothing that a slide shows (only: {', '.join(kind for kind, _ in kinds.most_common(2))})"


def name_digest(name: str) -> str:
    """Forty bits of a name, by which a checkpoint remembers what it was trained on without saying its names."""
    return blake2b(name.encode(), digest_size=5).hexdigest()
