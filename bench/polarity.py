"""Polarity and visibility against annotated sentences, beside medspaCy's ConText and negspacy.

    python bench/polarity.py --sub-captions sub-captions.json --slidebench SlideBench-Caption-TCGA.csv [--others PYTHON]

``--sub-captions``: a list of objects with text, language, visible and findings (finding, polarity: present, absent,
uncertain). ``--slidebench``: the public captions; sentences of them are annotated in bench/annotations: 180 drawn at
random, read twice; 170 the rules were mended on; 220 of which 130 hold a word of denial or doubt, read twice before
the rules saw them; three times 240 read by two readers each, before the rule book was settled; and by the settled rule
book 960 that the rules were mended on, and three times 240 that two readers each read apart.
``--others`` names a Python with medspacy and negspacy installed (their versions of spaCy need an environment of their
own):  python -m venv others && others/bin/pip install medspacy negspacy
"""

import argparse
import csv
import json
import re
import subprocess
from collections import Counter
from pathlib import Path

from pathflip.text.sentences import split_sentences
from pathflip.text.sub_captions import sub_captions_of

HERE = Path(__file__).parent
MEANS = {"present": "affirmed", "absent": "denied", "uncertain": "undecided"}
DENIAL_WORDS = re.compile(
    r"\b(?:no|not|without|absent|absence of|negative for|free of|neither|nor|lacks?|lacking|none|never|cannot)\b", re.I
)


DENIES_NOTHING = re.compile(
    r"\bnot otherwise specified\b|\b(?:of |with )?no (?:special|specific) (?:type|subtype|histologic(?:al)? type)\b|"
    r"\bnon?[- ]specific type\b|\bnot (?:only|just|merely)\b|\bnot (?:un|in)(?:common|usual|frequent)\w*\b|"
    r"\bwith or without\b|\bno (?:more|fewer|less) than\b",
    re.IGNORECASE,
)
"""Phrases that hold a denial word and deny nothing: counted apart, and listed."""


def ours(text: str, finding: str) -> str:
    """What the rules say of a finding in a sentence; "unseen" where no visible sub-caption holds it."""
    polarities = {s.polarity for s in sub_captions_of(text) if s.visual and finding.lower() in s.text.lower()}
    return polarities.pop() if len(polarities) == 1 else "mixed" if polarities else "unseen"


def table(rows: list[dict], answers_of: dict[str, list[str]]) -> None:
    """Rows: finding by finding. Right, undecided or nothing said, and the opposite, by system and language."""
    for language in dict.fromkeys(row["language"] for row in rows):
        places = [i for i, row in enumerate(rows) if row["language"] == language]
        for system, answers in answers_of.items():
            pairs = [(rows[i]["polarity"], answers[i]) for i in places if answers[i] != "unsupported"]
            if not pairs:
                continue
            right = sum(true == got or (true == "undecided" and got == "affirmed") for true, got in pairs)
            opposite = sum(
                {true, got} == {"affirmed", "denied"} or (true, got) == ("undecided", "denied") for true, got in pairs
            )
            count = len(pairs)
            shares = f"right {right / count:.3f}  opposite {opposite / count:.3f}"
            print(f"{language:5} {system:10} findings {count:4}  {shares}")


def ask_others(python: str, rows: list[dict]) -> dict[str, list[str]]:
    """The answers of the other systems, in their own environment."""
    lines = "\n".join(json.dumps(row) for row in rows)
    done = subprocess.run(
        [python, str(HERE / "polarity_others.py")], input=lines, capture_output=True, text=True, check=True
    )
    answers: dict[str, list[str]] = json.loads(done.stdout.strip().splitlines()[-1])
    return answers


def kappa(first: list, second: list) -> float:
    """Cohen's kappa of two lists of labels."""
    count = len(first)
    same = sum(a == b for a, b in zip(first, second, strict=True)) / count
    ours, theirs = Counter(first), Counter(second)
    chance = sum(ours[label] * theirs[label] for label in ours) / count**2
    return (same - chance) / (1 - chance)


SAMPLES = (
    "slidebench_180",
    "slidebench_170_development",
    "slidebench_220_test",
    "slidebench_240_two_readers",
    "slidebench_240_two_more_readers",
    "slidebench_240_third_readers",
    "slidebench_480_settled_rules_development",
    "slidebench_480_settled_rules_second_development",
    "slidebench_240_settled_rules",
    "slidebench_240_settled_rules_second",
    "slidebench_240_settled_rules_third",
)


def sample(captions: dict[str, str], name: str = SAMPLES[0]) -> list[dict]:
    """The sentences of an annotated sample with their text."""
    lines = (HERE / "annotations" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [row | {"text": captions[row["id"]][row["start"] : row["start"] + row["length"]]} for row in rows]


def agreement(rows: list[dict]) -> None:
    """Kappa of the two readings: visible or not, and whether a denial is held."""
    visible = [[row[name] is not None for row in rows] for name in ("first", "second")]
    denies = [[any(p == "denied" for p, _ in row[name] or ()) for row in rows] for name in ("first", "second")]
    print(f"agreement of the two readings: visible kappa {kappa(*visible):.3f}, denial kappa {kappa(*denies):.3f}")


def _agree(row: dict) -> bool:
    """Whether both readings call a sentence visible, or not, and deny as many findings, each in words that overlap."""
    if (row["first"] is None) != (row["second"] is None):
        return False
    first, second = ([phrase.lower() for polarity, phrase in row[name] or () if polarity == "denied"]
                     for name in ("first", "second"))  # fmt: skip
    overlap = all(any(a in b or b in a for b in second) for a in first)
    return len(first) == len(second) and overlap


def measure(rows: list[dict], reading: str) -> None:
    """Visible and denied, precision and recall, against one reading."""
    visible, denied = Counter(), Counter()
    for row in rows:
        stated, true = sub_captions_of(row["text"]), row[reading]
        seen = any(s.visual for s in stated)
        visible[seen, true is not None] += 1
        phrases = {"denied": [], "other": []}
        for polarity, phrase in true or ():
            phrases["denied" if polarity == "denied" else "other"].append(phrase.lower())
        claims = [s.text.lower() for s in stated if s.visual and s.polarity == "denied"]
        for phrase in phrases["denied"]:
            denied["right" if any(phrase in text for text in claims) else "lost"] += 1
        denied["wrong"] += sum(not any(phrase in text for phrase in phrases["denied"]) for text in claims)
    precision = visible[True, True] / max(1, visible[True, True] + visible[True, False])
    recall = visible[True, True] / max(1, visible[True, True] + visible[False, True])
    number = visible[True, True] + visible[False, True]
    print(f"{reading:6} visible: precision {precision:.3f} recall {recall:.3f} of {number}", end="  ")
    right, lost, wrong = denied["right"], denied["lost"], denied["wrong"]
    precision, recall = right / max(1, right + wrong), right / max(1, right + lost)
    print(f"denied: precision {precision:.3f} recall {recall:.3f} of {right + lost}")


def denial_words(text: str) -> tuple[list[str], list[str]]:
    """The words of a text that deny something, and the phrases that hold such a word and deny nothing."""
    phrases = [" ".join(match.group().lower().split()) for match in DENIES_NOTHING.finditer(text)]
    return DENIAL_WORDS.findall(DENIES_NOTHING.sub(" ", text)), phrases


def kept_denials(captions: dict[str, str], show: bool) -> None:
    """Of the denial words in what is visible, how many stand in a sub-caption that denies (or is undecided).

    Phrases that hold such a word and deny nothing are counted apart and named; both fractions are printed. With
    ``show``, every sub-caption that is not denied and holds a denial word is printed, too.
    """
    where, sentences, sub_captions = Counter(), 0, Counter()
    phrases = {polarity: Counter() for polarity in MEANS.values()}
    aside = 0
    for name, text in captions.items():
        for sentence in split_sentences(text):
            every = sub_captions_of(sentence)
            stated = [s for s in every if s.visual]
            sentences += bool(stated)
            sub_captions.update(s.polarity for s in stated)
            aside += sum(len(denial_words(s.text)[0]) for s in every if not s.visual)
            for one in stated:
                words, nothing = denial_words(one.text)
                where[one.polarity] += len(words)
                phrases[one.polarity].update(nothing)
                if show and words and one.polarity != "denied":
                    print(f"  {name} {one.polarity}: {one.text}\n      in: {sentence}")
    print(f"SlideBench: {sentences} visible sentences, sub-captions {dict(sub_captions)}")
    total, nothing = where.total(), sum(counted.total() for counted in phrases.values())
    print(f"denial words in visible sub-captions: {total}, in denied ones {where['denied']} "
          f"({where['denied'] / total:.3f}), undecided {where['undecided']}, affirmed {where['affirmed']}; "
          f"{aside} more in what is set aside as not visible")  # fmt: skip
    listed = sum(phrases.values(), Counter()).most_common()
    print(f"phrases that hold such a word and deny nothing, counted apart: {nothing}: "
          + ", ".join(f"{count} x {phrase!r}" for phrase, count in listed))  # fmt: skip
    in_denied = where["denied"] + phrases["denied"].total()
    print(f"with them among the words: {in_denied} of {total + nothing} in denied sub-captions "
          f"({in_denied / (total + nothing):.3f})")  # fmt: skip


def denials_of_visible_sentences(rows: list[dict], show: bool) -> None:
    """Where the denials of sentences that are visible by the first reading are: kept, or set aside with their sentence.

    Counted in findings (each phrase that the reading denies) and in words. Words that stand with no such phrase deny
    what no slide shows ("margins are not involved") or leave a finding open ("no definite invasion").
    With ``show``, every finding that is in no denied sub-caption is printed.
    """
    findings, words = Counter(), Counter()
    for row in rows:
        if row["first"] is None:
            continue
        stated = sub_captions_of(row["text"])
        denied = [phrase.lower() for polarity, phrase in row["first"] if polarity == "denied"]
        seen = [phrase for phrase in denied if any(s.visual and phrase in s.text.lower() for s in stated)]
        for one in stated:
            own = [phrase for phrase in denied if phrase in one.text.lower() and (one.visual or phrase not in seen)]
            place = "no denied finding" if not own else one.polarity if one.visual else "set aside"
            words[place] += len(denial_words(one.text)[0])
        for phrase in denied:
            holding = [s for s in stated if phrase in s.text.lower()]
            visible = {s.polarity for s in holding if s.visual}
            place = "denied" if "denied" in visible else next(iter(sorted(visible)), "set aside" if holding else "cut")
            findings[place] += 1
            if show and place != "denied":
                print(f"  {place}: {phrase!r} in: {row['text']}")
    for what, counted in (("findings", findings), ("words", words)):
        number = counted.total() - counted["no denied finding"]
        share = counted["denied"] / max(1, number)
        others = {place: count for place, count in counted.items() if count and place != "denied"}
        print(f"denied {what} of visible sentences: {number}, kept {counted['denied']} ({share:.3f}); others {others}")


def _measure_sample(rows: list[dict], name: str, others: str | None, show: bool) -> None:
    """Agreement of the readings, precision and recall against each, and the other systems finding by finding."""
    print(name)
    readings = [reading for reading in ("first", "second") if reading in rows[0]]
    if len(readings) > 1:
        agreement(rows)
    agreed = [row for row in rows if len(readings) > 1 and _agree(row)]
    if agreed:
        print(f"the {len(agreed)} of {len(rows)} sentences on which both readings agree, by the")
        measure(agreed, "first")
    for reading in readings:
        measure(rows, reading)
        for stratum in sorted({row.get("stratum", "") for row in rows} - {""}):
            print(f"  of these {stratum:6}", end=" ")
            measure([row for row in rows if row["stratum"] == stratum], reading)
    findings = [
        {"text": row["text"], "language": "en", "finding": phrase, "polarity": polarity}
        for row in rows for polarity, phrase in row["first"] or ()
    ]  # fmt: skip
    answers = {"pathflip": [ours(row["text"], row["finding"]) for row in findings]}
    answers |= ask_others(others, findings) if others else {}
    table(findings, answers)
    denials_of_visible_sentences(rows, show)


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sub-captions", type=Path, action="append", default=[])
    parser.add_argument("--slidebench", type=Path)
    parser.add_argument("--others", help="Python of an environment with medspacy and negspacy")
    parser.add_argument("--show", action="store_true", help="print what is undecided, affirmed or set aside")
    arguments = parser.parse_args()
    for path in arguments.sub_captions:
        examples = json.loads(path.read_text(encoding="utf-8"))
        rows = [
            {"text": e["text"], "language": e["language"], "finding": f["finding"], "polarity": MEANS[f["polarity"]]}
            for e in examples if e["visible"] for f in e["findings"]
        ]  # fmt: skip
        answers_of = {"pathflip": [ours(row["text"], row["finding"]) for row in rows]}
        answers_of |= ask_others(arguments.others, rows) if arguments.others else {}
        print(path.name)
        table(rows, answers_of)
        english = [e for e in examples if e["language"] == "en"]
        right = sum(any(s.visual for s in sub_captions_of(e["text"])) == e["visible"] for e in english)
        print(f"en    visible right {right} of {len(english)}")
    if arguments.slidebench:
        with open(arguments.slidebench, encoding="utf-8-sig", newline="") as handle:
            captions = {row["ID"]: row["Caption"] for row in csv.DictReader(handle)}
        for name in SAMPLES:
            _measure_sample(sample(captions, name), name, arguments.others, arguments.show)
        kept_denials(captions, arguments.show)


if __name__ == "__main__":
    main()
