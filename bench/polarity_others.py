"""medspaCy's ConText and negspacy on findings of sentences; run by bench/polarity.py in an environment of their own.

Reads JSON lines with text, finding, language; prints one JSON object: system -> answers ("affirmed", "denied",
"undecided", "unsupported" for a language the system has no rules for).
"""

import json
import sys
from typing import Any


def medspacy_answers(rows: list[dict]) -> list[str]:
    """ConText with the rules medspaCy brings for the language."""
    import medspacy

    pipes: dict[str, Any] = {}
    answers = []
    for row in rows:
        language = row["language"]
        if language not in pipes:
            try:
                pipe = medspacy.load(language_code=language)
                pipes[language] = pipe if pipe.get_pipe("medspacy_context").rules else None
            except Exception:  # no such language
                pipes[language] = None
        pipe = pipes[language]
        if pipe is None:
            answers.append("unsupported")
            continue
        doc = pipe.get_pipe("medspacy_pyrush")(pipe.make_doc(row["text"]))
        _mark(doc, row)
        (entity,) = pipe.get_pipe("medspacy_context")(doc).ents
        uncertain = entity._.is_uncertain or entity._.is_hypothetical
        answers.append("denied" if entity._.is_negated else "undecided" if uncertain else "affirmed")
    return answers


def negspacy_answers(rows: list[dict]) -> list[str]:
    """negspacy's NegEx with its clinical English terms."""
    import spacy
    from negspacy.negation import Negex
    from negspacy.termsets import termset

    pipe = spacy.blank("en")
    pipe.add_pipe("sentencizer")
    negex = Negex(
        pipe,
        name="negex",
        neg_termset=termset("en_clinical").get_patterns(),
        ent_types=["FINDING"],
        extension_name="negex",
        chunk_prefix=[],
    )
    answers = []
    for row in rows:
        if row["language"] != "en":
            answers.append("unsupported")
            continue
        doc = pipe(row["text"])
        _mark(doc, row)
        (entity,) = negex(doc).ents
        answers.append("denied" if entity._.negex else "affirmed")
    return answers


def _mark(doc: Any, row: dict) -> None:
    start = row["text"].lower().index(row["finding"].lower())
    doc.ents = [doc.char_span(start, start + len(row["finding"]), label="FINDING", alignment_mode="expand")]


if __name__ == "__main__":
    findings = [json.loads(line) for line in sys.stdin if line.strip()]
    answers_of = {}
    for name, ask in (("medspacy", medspacy_answers), ("negspacy", negspacy_answers)):
        try:
            answers_of[name] = ask(findings)
        except Exception as error:
            print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
    print(json.dumps(answers_of))
