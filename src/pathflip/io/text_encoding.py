"""Text files in any usual encoding: UTF-8, UTF-16, UTF-32, Windows-1252 where nothing else fits, or a named one."""

import codecs
import re
import warnings
from pathlib import Path

from pathflip.errors import CaptionError, ConfigError

__all__ = ["decoded"]

_MARKS = (  # UTF-32's little-endian mark begins with UTF-16's
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_PROBE = 1 << 16


def decoded(path: Path, data: bytes, encoding: str | None = None) -> str:
    """The text of a file's bytes, without a byte-order mark.

    A file that is not UTF-8 is read as Windows-1252 where it looks like western text (single accented letters among
    others), with a warning; other encodings must be named, since most of them decode without an error into nonsense.

    Args:
        path: for messages. data: the whole content. encoding: as Python names it; None finds it out.

    Raises:
        CaptionError: not text in that encoding, or in none that can be told.
        ConfigError: Python knows no such encoding.
    """
    if encoding is not None:
        return _as(path, data, encoding)
    for mark, name in _MARKS:
        if data.startswith(mark):
            return _as(path, data[len(mark) :], name)
    if guess := _without_mark(data):
        return _as(path, data, guess)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        text = _western(data)
        if text is None:
            raise CaptionError(
                f"{path.name}: not UTF-8 (byte {error.start}); save it as UTF-8, in a spreadsheet 'CSV UTF-8', or name "
                "its encoding with --encoding"
            ) from None
    warnings.warn(
        f"{path.name}: not UTF-8; read as Windows-1252. If letters look wrong, save it as UTF-8 or give --encoding",
        stacklevel=3,
    )
    return text


def _as(path: Path, data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding).removeprefix("\ufeff")
    except LookupError:
        raise ConfigError(
            f"--encoding: no encoding '{encoding}'; for example utf-8, utf-16, cp1252, shift_jis"
        ) from None
    except UnicodeError as error:
        start = getattr(error, "start", 0)
        raise CaptionError(f"{path.name}: not {encoding} (byte {start}); save it as UTF-8") from None


def _without_mark(data: bytes) -> str | None:
    """UTF-16 without a byte-order mark shows by its zero bytes: every other one, in western text."""
    probe = data[:_PROBE]
    even, odd = probe[0::2].count(0), probe[1::2].count(0)
    if max(even, odd) * 4 < len(probe) or min(even, odd) * 10 > max(even, odd):
        return None
    return "utf-16-le" if odd > even else "utf-16-be"


def _western(data: bytes) -> str | None:
    """As Windows-1252; None where bytes beyond ASCII stand in rows, as other alphabets have them, or are undefined."""
    beyond = sum(byte > 127 for byte in data)
    in_rows = sum(len(run) for run in re.findall(rb"[\x80-\xff]{3,}", data))
    if in_rows * 10 > beyond:
        return None
    try:
        return data.decode("cp1252")
    except UnicodeDecodeError:
        return None
