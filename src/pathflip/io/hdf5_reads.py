"""How the HDF5 library is handed bytes, and what they claim: lengths of texts are held against the file first.

A text or list of variable length is stored as its length, the place of a collection of values, and a number in it
("Global heap ID" of HDF5's file format). The library asks for that length in memory, and fills it, before it looks at
the collection; a length that was changed to gigabytes costs gigabytes. It never hands the length out, so it is looked
for in the bytes that the library itself has read for the attributes.
"""

import os
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

__all__ = ["WholeReads"]

_COLLECTION = b"GCOL"
_PLACE_BYTES = (2, 4, 8)


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

    def longest_claim(self, size: int, place_bytes: int, begin: int = 0) -> int:
        """The largest length of a text or list, of those in what was read so far, that the file cannot hold; 0: none.

        Args:
            size: of the file, bytes.
            place_bytes: how many bytes the file takes for a place in it.
            begin: where its first byte for HDF5 lies (behind a user block).
        """
        longest, is_collection = 0, {}
        for region in self._regions():
            lengths, places = _heap_ids(region, size, place_bytes)
            for length, place in zip(lengths.tolist(), places.tolist(), strict=True):
                if place not in is_collection:
                    is_collection[place] = self._peek(begin + place) == _COLLECTION
                longest = max(longest, length if is_collection[place] else 0)
        return longest

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

    def _peek(self, place: int) -> bytes:
        before = self._handle.tell()
        self._handle.seek(place)
        data = self._handle.read(len(_COLLECTION))
        self._handle.seek(before)
        return data


def _heap_ids(region: bytes, size: int, place_bytes: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Lengths and places of what may be global heap IDs, at any byte, whose length is more than ``size``.

    An ID is a length (4 bytes), a place, and a number in the collection there (4 bytes).
    """
    width = 4 + place_bytes + 4
    if len(region) < width or place_bytes not in _PLACE_BYTES:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    windows = np.lib.stride_tricks.sliding_window_view(np.frombuffer(region, np.uint8), width)
    lengths = np.ascontiguousarray(windows[:, :4]).view("<u4")[:, 0]
    places = np.ascontiguousarray(windows[:, 4:-4]).view(f"<u{place_bytes}")[:, 0]
    possible = (lengths > size) & (places > 0) & (places < size)
    return lengths[possible].astype(np.int64), places[possible].astype(np.int64)
