"""TIFF headers that contradict themselves are refused before OpenSlide sees them; whole ones pass."""

import struct

import pytest

from damage import tiff_bases, tiff_fields
from pathflip.errors import SlideError
from pathflip.slide import open_slide
from pathflip.slide.sources.tiff_header import check_tiff_header

BASES = tiff_bases()


def entry(data, tag, page=0):
    """Where an entry of a page lies."""
    big = data[2] == 43
    fields, entries = [at for at, width in tiff_fields(data) if width == 2], []
    for at in fields:
        if struct.unpack_from("<H", data, at)[0] == tag and struct.unpack_from("<H", data, at + 2)[0] in (3, 4, 16):
            entries.append(at)
    return entries[page], (12 if big else 8)


def changed(data, tag, value, page=0, width=4):
    at, inside = entry(data, tag, page)
    damaged = bytearray(data)
    damaged[at + inside : at + inside + width] = value.to_bytes(width, "little")
    return bytes(damaged)


@pytest.mark.parametrize("number", range(len(BASES)))
def test_whole_headers_pass(tmp_path, number):
    (tmp_path / "a.tif").write_bytes(BASES[number])
    check_tiff_header(tmp_path / "a.tif")
    with open_slide(tmp_path / "a.tif") as slide:
        assert slide.info.size0 == (256, 256)


@pytest.mark.parametrize(
    ("tag", "value", "page", "reason"),
    [
        (257, 22856, 0, "page 0 lists 16 tiles where its size needs 1432"),  # ended the process in OpenSlide
        (256, 65535, 1, "page 1 lists 1 tiles where its size needs 1024"),
        (325, 2**31, 1, "tag 325 claims a tile of 2147483648 bytes"),  # so did this
        (256, 0, 0, "page 0 is 0 × 256 px"),
        (257, 2**31, 0, "page 0 is 256 × 2147483648 px"),
        (322, 0, 0, "page 0 has tiles of 0 × 64 px"),
        (325, 2**31, 0, "the values of tag 325 lie beyond its end"),
    ],
)
def test_headers_that_lie_are_refused(tmp_path, tag, value, page, reason):
    width = 2 if tag in (322, 323) and value == 0 else 4
    (tmp_path / "a.tif").write_bytes(changed(BASES[0], tag, value, page, width))
    with pytest.raises(SlideError, match=rf"a\.tif': its TIFF header is damaged: {reason}.*copy or export it again"):
        open_slide(tmp_path / "a.tif")


@pytest.mark.parametrize("number", [0, 2])
def test_directories_in_a_circle_or_beyond_the_end(tmp_path, number):
    data, path = BASES[number], tmp_path / "a.tif"
    width = 8 if data[2] == 43 else 4
    first = struct.unpack_from("<Q" if width == 8 else "<I", data, 8 if width == 8 else 4)[0]
    following = [at for at, w in tiff_fields(data) if w == width][-1]
    for place, reason in (
        (first, "run in a circle"),
        (len(data) + 9, "beyond its end"),
        (len(data) - 9, "leaves the file"),
    ):
        damaged = bytearray(data)
        damaged[following : following + width] = place.to_bytes(width, "little")
        path.write_bytes(damaged)
        with pytest.raises(SlideError, match=reason):
            check_tiff_header(path)


def test_other_files_pass(tmp_path):
    for name, content in (
        ("a.png", b"\x89PNG\r\n\x1a\n" + bytes(50)),
        ("b", b"II"),
        ("c", b"II" + bytes(40)),
        ("d", b""),
    ):
        (tmp_path / name).write_bytes(content)
        check_tiff_header(tmp_path / name)


@pytest.mark.real
def test_real_slides_pass(real_data):
    for path in sorted((real_data / "slides").iterdir()):
        check_tiff_header(path)
