"""A small untrained model, slides it can read, and features of some of them: for the workbench's tests."""

from pathlib import Path

import torch

from pathflip.checkpoint import InputContract, save_checkpoint
from pathflip.data.align import TextSpec
from pathflip.features import extract, load_encoder, write_features
from pathflip.geometry import TileSpec
from pathflip.models import build_model
from pathflip.slide import find_tissue, open_slide, tile_slide
from pathflip.text.tokenizer import train_tokenizer
from slide_files import halved, smooth_picture, write_pyramid

MPP = 0.5
WORDS = ["Keratin pearls are seen in the upper left.", "No necrosis is identified.", "Mucin pools are present."]
SPEC = TileSpec(64, 2.0)


def write_slides(folder: Path, names: tuple[str, ...]) -> None:
    """Slides of 1024 × 768 µm, each with colours of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        picture = smooth_picture(1536, 2048, seed=number)
        write_pyramid(folder / f"{name}.tif", [picture, halved(picture, 4)], compression="jpeg", mpp=MPP)


def write_model(folder: Path) -> Path:
    """An untrained model that reads tiles of 128 µm."""
    tokenizer = train_tokenizer(WORDS * 3, 300)
    encoder = load_encoder("stain_texture")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = build_model(
            {
                "kind": "pathflip", "feature_dim": encoder.dim, "vocab_size": tokenizer.vocab_size, "width": 16,
                "embed_dim": 8, "text_width": 16, "text_heads": 2,
            }
        )  # fmt: skip
    contract = InputContract(encoder=encoder.name, dim=encoder.dim, tile_px=SPEC.tile_px, mpp=SPEC.mpp)
    save_checkpoint(
        folder, net, contract=contract, tokenizer=tokenizer, text=TextSpec(), recipe={"regions": {"side": 3}}
    )
    return folder


def write_slide_features(slide_file: Path, out: Path) -> Path:
    """The slide's feature file."""
    encoder = load_encoder("stain_texture")
    with open_slide(slide_file) as slide:
        features = extract(slide, tile_slide(slide, find_tissue(slide), SPEC), encoder)
    target = out / f"{slide_file.stem}.h5"
    write_features(target, features)
    return target


def write_assistant(folder: Path, model: Path) -> Path:
    """An untrained assistant of tiny parts that looks with ``model``."""
    from pathflip.assistant import LanguageModelSpec, open_language_model, save_assistant
    from pathflip.assistant.language_model import open_tokenizer
    from pathflip.models.assistant import Assistant, AssistantConfig
    from pathflip.text.chat import ChatTemplate
    from tiny_assistant import save_language_model

    spec = LanguageModelSpec(source=str(save_language_model(folder / "language", "chatml")), train="full")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        template = ChatTemplate(open_tokenizer(spec.source))
        config = AssistantConfig(embed_dim=8, num_patches=5, tiles_per_text=3)
        net = Assistant(config, open_language_model(spec), [ids[-1] for ids in template.letter_ids(26)]).eval()
    return save_assistant(folder / "assistant", net, language=spec, template=template, aligned=model)
