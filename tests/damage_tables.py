"""Tables written in every dialect, and damaged; feature files in every layout that pipelines leave."""

import csv
import io
import json

import h5py
import numpy as np
from hypothesis import strategies as st

WORDS = st.text(st.sampled_from("ab Zé„ß病,;\t|\"'\n\r.-=0[]{}\u2028\x0b\x85"), max_size=12)
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252")
HEADERS = ("text", "Report", "report text", "caption")
BYTES = (0, 9, 10, 13, 34, 39, 44, 59, 92, 123, 125, 127, 128, 195, 239, 254, 255)


@st.composite
def tables(draw):
    """(bytes, suffix, rows): a table as some program would write it, and its rows (slide, text) as they are meant."""
    texts = draw(st.lists(WORDS.map(lambda w: f"x{w}y"), min_size=1, max_size=5))
    rows = [(f"s{number}", text) for number, text in enumerate(texts)]
    header = ("Slide", draw(st.sampled_from(HEADERS)))
    kind = draw(st.sampled_from(("csv", "csv", "jsonl", "json")))
    if kind != "csv":
        entries = [dict(zip(header, row, strict=True)) for row in rows]
        ascii_only = draw(st.booleans())
        lines = [json.dumps(entry, ensure_ascii=ascii_only) for entry in entries]
        text = "\n".join(lines) if kind == "jsonl" else json.dumps(entries, ensure_ascii=ascii_only)
        return text.encode(draw(st.sampled_from(("utf-8", "utf-8-sig", "utf-16")))), f".{kind}", rows
    delimiter, end = draw(st.sampled_from(",;\t|")), draw(st.sampled_from(("\n", "\r\n")))
    quoting = draw(st.sampled_from((csv.QUOTE_MINIMAL, csv.QUOTE_ALL)))
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter, lineterminator=end, quoting=quoting)
    writer.writerows([header, *rows])
    text = (f"sep={delimiter}{end}" if draw(st.booleans()) else "") + out.getvalue()
    return text.encode(draw(st.sampled_from(ENCODINGS)), "ignore"), ".csv", rows


@st.composite
def damaged_tables(draw):
    """(bytes, suffix) of a table with bytes changed, cut, doubled, or its end missing."""
    data, suffix, _ = draw(tables())
    data = bytearray(data)
    for _ in range(draw(st.integers(1, 5))):
        how, at = draw(st.sampled_from(("set", "insert", "cut", "double"))), draw(st.integers(0, max(0, len(data) - 1)))
        if how == "set" and data:
            data[at] = draw(st.sampled_from(BYTES) | st.integers(0, 255))
        elif how == "insert":
            data[at:at] = draw(
                st.binary(min_size=1, max_size=3) | st.sampled_from([b'"', b"\x00", b"[" * 5000, b"nan"])
            )
        elif how == "cut":
            del data[at : at + draw(st.integers(1, 20))]
        else:
            data[at:at] = data[at : at + 20]
    return bytes(data), draw(st.sampled_from((suffix, suffix, ".csv", ".json", ".jsonl", ".tsv")))


@st.composite
def feature_layouts(draw):
    """A function that writes a feature file as some pipeline would, and what it means: (features, coords)."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows, columns, dim = draw(st.integers(1, 4)), draw(st.integers(1, 5)), draw(st.integers(2, 7))
    x, y = np.meshgrid(np.arange(columns), np.arange(rows))
    coords = np.stack([x.ravel(), y.ravel()], 1) * 512
    matrix = rng.normal(size=(len(coords), dim)).astype(draw(st.sampled_from((np.float16, np.float32, np.float64))))
    name = draw(st.sampled_from(("features", "feat", "embeddings", "tile_embeds", "patch_features", "vectors")))
    place = draw(st.sampled_from(("coords", "coordinates", "tile_coords")))
    batch, batch_coords = draw(st.sampled_from((None, 0, 1))), draw(st.sampled_from((None, 0)))
    kind = draw(st.sampled_from((np.int64, np.int32, np.float64)))
    bad = draw(st.sampled_from((None, None, None, "nan", "twice", "negative", "one more")))
    options = draw(st.sampled_from(({}, {"compression": "gzip"}, {"chunks": True}, {"shuffle": True, "chunks": True})))

    def write(path):
        values, corners = matrix.copy(), coords.astype(kind)
        if bad == "nan":
            values[0, 0] = np.nan
        if bad == "twice" and len(corners) > 1:
            corners[1] = corners[0]
        if bad == "negative":
            corners[0, 0] = -512
        if bad == "one more":
            values = np.concatenate([values, values[:1]])
        with h5py.File(path, "w") as file:
            file.create_dataset(name, data=values if batch is None else np.expand_dims(values, batch), **options)
            file.create_dataset(place, data=corners if batch_coords is None else corners[None], **options)
            file[place].attrs.update({"patch_size": 256, "patch_size_level0": 512, "overlap": 0})
            file[name].attrs["encoder"] = "uni_v1"

    return write, (matrix.astype(np.float32), coords)
