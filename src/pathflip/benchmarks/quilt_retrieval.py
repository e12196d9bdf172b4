"""Quilt retrieval: crops of slides against their captions, both ways, R@1, R@10 and R@50.

Crops are pictures, or feature files made of them. A picture is brought to the model's resolution (``--set crop_mpp``,
what the crops' own pixels measure), cut into the model's tiles and encoded by the model's own encoder; what does not
fill a tile is reflected at the border. Ikezogwo et al. 2023, arXiv 2306.11207.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pathflip.benchmarks.protocol import Inputs, Outcome, Protocol, Published, Skipped
from pathflip.benchmarks.retrieval_scores import recall_scores
from pathflip.benchmarks.slide_files import allow_missing_or_raise, encode_each, item_files, open_model
from pathflip.benchmarks.test_sets import content_hash
from pathflip.errors import CaptionError, ConfigError, ContractError
from pathflip.features import Encoder, load_encoder
from pathflip.geometry import SlideInfo
from pathflip.inference import Aligned, EncodedSlide, encode_slide, retrieve
from pathflip.io.slide_id import slide_id
from pathflip.io.tables import first_of, read_table, text_of
from pathflip.text.captions import PATIENT_KEYS, SLIDE_KEYS, TEXT_KEYS
from pathflip.types import SlideFeatures

__all__ = ["PROTOCOL", "crop_features"]

NAME = "quilt-retrieval"
KS = (1, 10, 50)


def run(inputs: Inputs) -> Outcome:
    """Rank the captions of ``inputs.data`` for its crops, and its crops for the captions."""
    inputs.require(NAME, "model", "images")
    crops = _crops(inputs.data)
    model = open_model(inputs)
    skipped: list[Skipped] = []
    names = [name for name, _, _, _ in crops]
    if inputs.features:
        files, skipped = item_files(NAME, names, inputs)
        encoded = dict(encode_each(NAME, model, files, inputs, skipped))
    else:
        encoded = dict(_encoded_pictures(model, crops, inputs, skipped))
    scored = [crop for crop in crops if crop[0] in encoded]
    if len(scored) < 2:
        raise CaptionError(f"{NAME}: {len(scored)} crops can be scored; expected two at least")
    texts, patients = [text for _, _, text, _ in scored], [patient for *_, patient in scored]
    retrieval = retrieve(model, [encoded[name] for name, *_ in scored], texts)
    scores = [
        score
        for what, matrix in (
            ("combined", retrieval.scores),
            ("whole slide", retrieval.whole),
            ("sub-captions", retrieval.sub_captions),
        )
        for score in recall_scores(np.asarray(matrix), texts, patients, KS, inputs, what=what, item="crop")
    ]
    return Outcome(
        scores=tuple(scores), scored=len(scored), total=len(crops),
        test_set=f"{len(crops):,} crops (content hash {content_hash([(n, t) for n, _, t, _ in crops])})",
        skipped=tuple(skipped), items=tuple({"crop": name} for name, *_ in scored),
        compared_on=tuple((name, patient) for name, _, _, patient in scored),
        notes=("R@k depends on the number of crops: compare with published values only on as many",),
        published_applies=not inputs.other_set,
    )  # fmt: skip


def _crops(path: Path) -> list[tuple[str, Path, str, str]]:
    """Name, picture, caption and patient of every crop."""
    crops, problems = [], []
    for number, row in enumerate(read_table(path, expected="a table of crops with the columns image and caption"), 1):
        named, text = first_of(row, SLIDE_KEYS), text_of(first_of(row, TEXT_KEYS), "caption")
        if named is None or not text:
            problems.append(f"row {number}: no {'image' if named is None else 'caption'}")
            continue
        name = slide_id(named)
        crops.append((name, path.parent / str(named), text, str(first_of(row, PATIENT_KEYS) or name)))
    if problems:
        raise CaptionError(f"{path.name}: {'; '.join(problems[:3])}; expected both in every row")
    if len({name for name, *_ in crops}) < len(crops):
        raise CaptionError(f"{path.name}: two crops bear one name; expected each once, with one caption")
    return crops


def _encoded_pictures(
    model: Aligned, crops: Sequence[tuple[str, Path, str, str]], inputs: Inputs, skipped: list[Skipped]
) -> Iterator[tuple[str, EncodedSlide]]:
    contract = model.checkpoint.contract
    mpp = _crop_mpp(inputs, contract.mpp)
    missing = [Skipped(name, "no such picture") for name, file, _, _ in crops if not file.is_file()]
    allow_missing_or_raise(NAME, missing, len(crops), "crops", inputs)
    skipped += missing
    try:
        encoder = load_encoder(contract.encoder, inputs.device)
    except ConfigError as error:
        raise ContractError(f"{NAME}: the model's encoder '{contract.encoder}': {error}; or give --features") from None
    for done, (name, file, _, _) in enumerate(crops, start=1):
        if not file.is_file():
            continue
        pixels = cv2.imread(str(file), cv2.IMREAD_COLOR)
        if pixels is None:
            skipped.append(Skipped(name, "the picture cannot be read"))
            allow_missing_or_raise(NAME, skipped, len(crops), "crops", inputs)
            continue
        features = crop_features(name, pixels[..., ::-1].astype(np.uint8), mpp, model, encoder)
        inputs.progress(done, len(crops), name)
        yield name, encode_slide(model, features)


def _crop_mpp(inputs: Inputs, default: float) -> float:
    crop_mpp = inputs.settings.get("crop_mpp")
    try:
        mpp = default if crop_mpp is None else float(crop_mpp)
    except ValueError:
        mpp = 0.0
    if not 0.05 <= mpp <= 20:
        raise ConfigError(f"--set crop_mpp: got {crop_mpp!r}, expected the crops' µm per pixel, for example 0.5")
    return mpp


def crop_features(name: str, pixels: NDArray[np.uint8], mpp: float, model: Aligned, encoder: Encoder) -> SlideFeatures:
    """A picture as features the model reads.

    Args:
        name: of the crop. pixels: RGB, (height, width, 3). mpp: µm per pixel of the picture.
        model: what will read them. encoder: the model's.
    """
    contract = model.checkpoint.contract
    side, scale = contract.tile_px, mpp / contract.mpp
    size = [max(1, round(length * scale)) for length in pixels.shape[1::-1]]
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    picture = cv2.resize(np.ascontiguousarray(pixels), size, interpolation=method) if scale != 1 else pixels
    pad = [max(0, side - length) for length in picture.shape[:2]]
    picture = cv2.copyMakeBorder(picture, 0, pad[0], 0, pad[1], cv2.BORDER_REFLECT_101)
    height, width = picture.shape[:2]
    corners = [(x, y) for y in range(0, height - side + 1, side) for x in range(0, width - side + 1, side)]
    tiles = np.stack([picture[y : y + side, x : x + side] for x, y in corners])
    state = encoder.prepare(tiles[: encoder.sample_tiles]) if encoder.sample_tiles else None
    return SlideFeatures(
        slide_id=name,
        features=encoder.encode(tiles, state),
        coords=np.array(corners, dtype=np.int64),
        valid=np.ones(len(corners), bool),
        info=SlideInfo(name, (width, height), contract.mpp),
        spec=contract.tile_spec(),
        encoder=encoder.name,
    )


PROTOCOL = Protocol(
    name=NAME,
    title="Quilt retrieval of crops",
    metric="R@1, R@10, R@50, each direction by itself",
    needs="a table of crops with the columns image and caption; an alignment model; pictures, or features of them",
    run=run,
    published=(
        Published("PathFLIP", "R@1", "crop → text", 0.271),
        Published("PathFLIP", "R@1", "text → crop", 0.2646),
    ),
    source="arXiv 2306.11207",
)
