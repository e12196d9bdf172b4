"""Conditions on labels, ``organ = 'lung' and age > 60``, read by a grammar of our own.

What comes out is an expression for the database made of known columns and escaped literals only: no function, no
subquery and no file name gets through.
"""

import re
from collections.abc import Mapping

from pathflip.errors import ConfigError

__all__ = ["condition", "quoted"]

_TOKEN = re.compile(
    r"""\s*(?:(?P<text>'(?:[^']|'')*')|(?P<name>"[^"]+"|[^\W\d]\w*)|(?P<number>-?\d+(?:\.\d+)?)"""
    r"""|(?P<sign><=|>=|!=|<>|=|<|>|\(|\)|,))"""
)
_WORDS = ("and", "or", "not", "in", "is", "null", "like")
_COMPARE = ("=", "!=", "<>", "<", ">", "<=", ">=")
MOST_CHARACTERS = 4000
MOST_NESTED = 50
MOST_NAMED = 30


def quoted(text: str) -> str:
    """A text as a literal of the database."""
    return "'" + text.replace("'", "''") + "'"


def condition(text: str, columns: Mapping[str, str]) -> str:
    """A condition as an expression for the database.

    Args:
        columns: names a user may write -> columns of text in the table.

    Raises:
        ConfigError: an unknown column, or not a condition.
    """
    if len(text) > MOST_CHARACTERS:
        raise ConfigError(f"--where: got {len(text)} characters, expected at most {MOST_CHARACTERS}")
    reader = _Reader(text, columns)
    expression = reader.alternatives(0)
    if reader.tokens[reader.place][0] != "end":
        raise reader.problem("'and', 'or' or the end")
    return expression


class _Reader:
    """Recursive descent over the tokens of a condition."""

    def __init__(self, text: str, columns: Mapping[str, str]) -> None:
        self.text, self.columns, self.place = text, columns, 0
        self.tokens: list[tuple[str, str]] = []
        start = 0
        while text[start:].strip():
            match = _TOKEN.match(text, start)
            if match is None:
                raise ConfigError(
                    f"--where: cannot read {text[start:].strip()[:20]!r}; expected for example  organ = 'lung' and "
                    "age > 60  (text in single quotes)"
                )
            kind, value = str(match.lastgroup), str(match[str(match.lastgroup)])
            if kind == "name" and value.lower() in _WORDS:
                kind, value = "word", value.lower()
            self.tokens.append((kind, value))
            start = match.end()
        self.tokens.append(("end", "the end"))

    def problem(self, expected: str) -> ConfigError:
        return ConfigError(f"--where: got {self.tokens[self.place][1]!r}, expected {expected}; in  {self.text[:80]}")

    def take(self, *values: str) -> str | None:
        """The next token, passed over, if it is one of these words or signs."""
        kind, value = self.tokens[self.place]
        if kind in ("word", "sign") and value in values:
            self.place += 1
            return value
        return None

    def alternatives(self, depth: int) -> str:
        parts = [self.together(depth)]
        while self.take("or"):
            parts.append(self.together(depth))
        return " OR ".join(parts)

    def together(self, depth: int) -> str:
        parts = [self.one(depth)]
        while self.take("and"):
            parts.append(self.one(depth))
        return " AND ".join(parts)

    def one(self, depth: int) -> str:
        if depth > MOST_NESTED:
            raise ConfigError(f"--where: more than {MOST_NESTED} brackets within each other")
        if self.take("not"):
            return f"(NOT {self.one(depth + 1)})"
        if self.take("("):
            inner = self.alternatives(depth + 1)
            if not self.take(")"):
                raise self.problem("')'")
            return f"({inner})"
        return self.comparison(self.column())

    def column(self) -> str:
        kind, value = self.tokens[self.place]
        if kind != "name":
            raise self.problem("a column")
        name = value.strip('"')
        if name not in self.columns:
            names = ", ".join(list(self.columns)[:MOST_NAMED]) + (", …" if len(self.columns) > MOST_NAMED else "")
            raise ConfigError(f"--where: no column '{name}'; expected one of {names}")
        self.place += 1
        return self.columns[name]

    def literal(self, column: str) -> tuple[str, str]:
        """The column as compared (a number where it is compared with one) and the literal."""
        kind, value = self.tokens[self.place]
        if kind not in ("text", "number"):
            raise self.problem("a text in single quotes or a number")
        self.place += 1
        return (column, value) if kind == "text" else (f"TRY_CAST({column} AS DOUBLE)", value)

    def comparison(self, column: str) -> str:
        if self.take("is"):
            negated = " NOT" if self.take("not") else ""
            if not self.take("null"):
                raise self.problem("null")
            return f"({column} IS{negated} NULL)"
        negated = "NOT " if self.take("not") else ""
        if self.take("in"):
            return f"({negated}({self.any_of(column)}))"
        if self.take("like"):
            left, literal = self.literal(column)
            return f"({left} {negated}LIKE {literal})"
        sign = None if negated else self.take(*_COMPARE)
        if sign is None:
            raise self.problem("in or like" if negated else "one of = != < > <= >= in like is")
        left, literal = self.literal(column)
        return f"({left} {sign} {literal})"

    def any_of(self, column: str) -> str:
        if not self.take("("):
            raise self.problem("'('")
        parts = [" = ".join(self.literal(column))]
        while self.take(","):
            parts.append(" = ".join(self.literal(column)))
        if not self.take(")"):
            raise self.problem("')'")
        return " OR ".join(parts)
