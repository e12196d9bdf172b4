"""How the HDF5 library is handed bytes, and what its attributes say of the texts that they hold.

A text or list of variable length is stored as its length, the place of a collection of values, and a number in it
("Global heap ID" of HDF5's file format). The library asks for that length in memory, and fills it, before it looks at
the collection: a length that was changed to gigabytes costs gigabytes. And it walks through a collection without end
where a gap in it has no size. It never hands out length or place, so they are looked for in the bytes that it has read.
"""

import os
from collections.abc import Iterator
from typing import Any, BinaryIO

__all__ = ["WholeReads"]

_HEAP_HEAD = 16
"""Bytes before the first value of a collection, and before each value: numbers, and its size in the last eight."""
_LARGEST_COLLECTION = 2**28


class WholeReads:
    """A file to read whose every read is filled, or fails.

    h5py hands what :meth:`readinto` leaves unfilled to the HDF5 library as it happens to lie in memory. In a file whose
    end is missing, and whose header was changed so that it is not missed, the library then follows numbers that nobody
    wrote, and may end the process: now and then, never twice alike.
    """

    def __init__(self, handle: BinaryIO) -> None:
        self._handle = handle
        self._kept: dict[int, bytes] | None = {}

    def seek(self, place: int, whence: int = os.SEEK_SET) -> int:
        """As files have it."""
        return self._handle.seek(place, whence)

    def tell(self) -> int:
        """As files have it."""
        return self._handle.tell()

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer of bytes (Cython's, or any other).

        Raises:
            EOFError: the file ends before it is full.
        """
        size = len(buffer)
        place = self._handle.tell()
        got = self._handle.readinto(buffer)  # type: ignore[attr-defined]  # every buffered file has it
        if got != size:
            raise EOFError(f"it ends {size - (got or 0)} bytes before what its header says is there")
        if self._kept is not None and len(self._kept.get(place, b"")) < size:
            self._kept[place] = bytes(buffer)
        return size

    def read(self, size: int = -1) -> bytes:
        """As files have it (h5py asks whether it is there, and reads by :meth:`readinto`)."""
        return self._handle.read(size)

    def flush(self) -> None:
        """Nothing is ever written."""

    def forget(self) -> None:
        """Keep no more of what is read."""
        self._kept = None

    def texts(self, name: bytes, size: int, place_bytes: int) -> list[tuple[int, int]]:
        """Length of each text or list in the attributes of a name, and the place of its collection.

        Only what was read so far is looked at, so the attribute must have been opened.

        Args:
            name: the attribute's.
            size: of its data, bytes; of one text or list: a length (4), a place, a number (4).
            place_bytes: how many bytes the file takes for a place in it.
        """
        step = 4 + place_bytes + 4
        return [
            (_number(region, at, 4), _number(region, at + 4, place_bytes))
            for region in self._regions()
            for data in _attribute_data(region, name)
            if data + size <= len(region)
            for at in range(data, data + size - step + 1, step)
        ]

    def ends(self, place: int) -> bool:
        """Whether the library comes to the end of the collection there ("Global Heap Collection"), or refuses it."""
        before = self._handle.tell()
        self._handle.seek(place)
        head = self._handle.read(_HEAP_HEAD)
        whole = head + self._handle.read(min(_number(head, 8, 8), _LARGEST_COLLECTION))
        self._handle.seek(before)
        at, end = _HEAP_HEAD, min(_number(head, 8, 8), len(whole))
        while head[:4] == b"GCOL" and at + _HEAP_HEAD <= end:
            number, size = _number(whole, at, 2), _number(whole, at + 8, 8)
            if number == 0 and size == 0:
                return False
            at += _HEAP_HEAD + -(-size // 8) * 8 if number else size
        return True

    def _regions(self) -> list[bytes]:
        """What was read, in as few pieces as it makes: a header may come in two reads."""
        regions: list[bytearray] = []
        end = -1
        for place, data in sorted((self._kept or {}).items()):
            if not regions or place > end:
                regions.append(bytearray(data))
                end = place + len(data)
            elif place + len(data) > end:
                regions[-1] += data[end - place :]
                end = place + len(data)
        return [bytes(region) for region in regions]


def _attribute_data(region: bytes, name: bytes) -> Iterator[int]:
    """Where the data of attributes of this name begin ("Attribute Message", versions 1 to 3, of the file format)."""
    name += b"\0"
    at = region.find(name)
    while at >= 0:
        for version, before in ((1, 8), (2, 8), (3, 9)):
            head = region[at - before : at] if at >= before else b""
            sizes = [_number(head, i, 2) for i in (2, 4, 6)]  # of name, type, shape
            if head[:1] == bytes([version]) and sizes[0] == len(name):
                yield at + sum(-(-size // 8) * 8 if version == 1 else size for size in sizes)
        at = region.find(name, at + 1)


def _number(data: bytes, at: int, width: int) -> int:
    return int.from_bytes(data[at : at + width], "little")
