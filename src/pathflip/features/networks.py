"""Published weights to networks: build the architecture, load it whole.

Every weight must be there and none may be left over, except heads and text towers that features do not need: a file of
another model is refused, never half loaded.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pathflip.errors import ConfigError, MissingExtraError
from pathflip.features.efficientnet import EfficientNetLite0, published_name
from pathflip.features.foundation import FoundationEncoder
from pathflip.features.vit import Conch, Conch15, Keep, PooledViT, VisionTransformer
from pathflip.features.weights import State, first_line, read_weights
from pathflip.processes import transformers_are_quiet

__all__ = ["averaged", "build", "timm_network", "transformers_network"]


def build(row: FoundationEncoder, files: list[Path]) -> nn.Module:
    """The network of a table row with its weights, in evaluation mode: pixels (n, 3, px, px) to features (n, dim).

    Raises:
        ConfigError: the weights are of another model, or this one can only be run exported.
    """
    if row.layout == "exported":
        raise ConfigError(
            f"encoder '{row.name}': its network is built by its authors' package ({row.source}); export it from there "
            f"with torch.onnx.export and pass  {row.name}=FILE.onnx"
        )
    state = read_weights(row.name, files)
    try:
        return _BUILDERS[row.layout](row, state, files[0].parent).eval()
    except ConfigError as error:
        raise ConfigError(f"encoder '{row.name}': '{files[0]}': {error}") from error


def _trunk(row: FoundationEncoder, state: State, prefix: str = "") -> VisionTransformer:
    assert row.vit is not None
    inner = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    with torch.device("meta"):
        return VisionTransformer(row.vit, inner)


def _filled(network: nn.Module, state: State, spare: tuple[str, ...] = ()) -> nn.Module:
    """Give a network its weights; every one, and none left over but those whose names start with ``spare``."""
    wanted = {key: value.shape for key, value in network.state_dict().items()}
    missing = sorted(set(wanted) - set(state))
    extra = sorted(key for key in set(state) - set(wanted) if not key.startswith(spare))
    if missing or extra:
        raise ConfigError(_difference(missing, extra))
    for key, shape in wanted.items():
        if state[key].shape != shape:
            raise ConfigError(f"weight '{key}' has shape {tuple(state[key].shape)}, expected {tuple(shape)}")
    floats = {key: state[key].float() if state[key].is_floating_point() else state[key] for key in wanted}
    network.requires_grad_(False)
    network.load_state_dict(floats, assign=True)
    return network


def _difference(missing: list[str], extra: list[str]) -> str:
    kinds = (("missing", missing), ("not understood", extra))
    parts = [f"{len(keys)} weights {what} (first '{keys[0]}')" for what, keys in kinds if keys]
    return " and ".join(parts) + "; expected the published file"


def _timm_vit(row: FoundationEncoder, state: State, folder: Path) -> nn.Module:
    """UNI, Virchow, GigaPath, H-optimus, Kaiko, Lunit: the bare transformer."""
    trunk = _trunk(row, state)
    return PooledViT(_vit(trunk, state), row.pooling)


def _vit(trunk: VisionTransformer, state: State) -> VisionTransformer:
    _filled(trunk, state, spare=("head.", "mask_token"))
    return trunk


def _hibou(row: FoundationEncoder, state: State, folder: Path) -> nn.Module:
    """Hibou: DINOv2 with registers, in the layout of the Hugging Face implementation."""
    renamed: State = {}
    for key, value in state.items():
        for old, new in _DINOV2_NAMES:
            key = re.sub(old, new, key)
        renamed[key] = value
    for block in {key.rsplit(".", 2)[0] for key in renamed if ".attn.query." in key}:
        for kind in ("weight", "bias"):
            parts = [f"{block}.{which}.{kind}" for which in ("query", "key", "value")]
            absent = [part for part in parts if part not in renamed]
            if absent:
                raise ConfigError(_difference(absent, []))
            renamed[f"{block}.qkv.{kind}"] = torch.cat([renamed.pop(part) for part in parts])
    return PooledViT(_vit(_trunk(row, renamed), renamed), row.pooling)


_DINOV2_NAMES = (
    (r"^dinov2\.", ""),
    (r"^embeddings\.mask_token$", "mask_token"),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^encoder\.layer\.", "blocks."),
    (r"\.attention\.attention\.", ".attn."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
    (r"\.mlp\.weights_in\.", ".mlp.fc1."),
    (r"\.mlp\.weights_out\.", ".mlp.fc2."),
    (r"^layernorm\.", "norm."),
)


def _keep(row: FoundationEncoder, state: State, folder: Path) -> nn.Module:
    state = {re.sub(r"\.ls(\d)\.weight$", r".ls\1.gamma", key): value for key, value in state.items()}
    with torch.device("meta"):
        network = Keep(_trunk(row, state, "visual."), row.dim)
    return _filled(network, state, spare=("text.", "logit_scale"))


def _conch(row: FoundationEncoder, state: State, folder: Path) -> nn.Module:
    inner = {key.removeprefix("visual."): value for key, value in state.items() if key.startswith("visual.")}
    with torch.device("meta"):
        network = Conch(_trunk(row, inner, "trunk."), row.dim)
    return _filled(network, inner, spare=("proj_contrast", "attn_pool_caption.", "ln_caption."))


def _conch15(row: FoundationEncoder, state: State, folder: Path) -> nn.Module:
    with torch.device("meta"):
        network = Conch15(_trunk(row, state, "trunk."), row.dim)
    return _filled(network, state, spare=("proj_contrast", "trunk.mask_token", "trunk.patch_embed.masked_embed"))


class _Mean(nn.Module):
    """A Hugging Face model's last feature map or last tokens, averaged over positions."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Float[Tensor, "n 3 y x"]) -> Float[Tensor, "n D"]:
        hidden = self.model(pixel_values=x).last_hidden_state
        return hidden.mean(dim=(2, 3) if hidden.ndim == 4 else 1)


class _ClassToken(nn.Module):
    """A Hugging Face vision model's class token, or the mean of a feature map."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Float[Tensor, "n 3 y x"]) -> Float[Tensor, "n D"]:
        hidden = self.model(pixel_values=x).last_hidden_state
        return hidden.mean(dim=(2, 3)) if hidden.ndim == 4 else hidden[:, 0]


class _Projection(nn.Module):
    """The image tower of a CLIP-like model, through its projection."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Float[Tensor, "n 3 y x"]) -> Float[Tensor, "n D"]:
        if hasattr(self.model, "get_image_features"):
            image_features: Any = self.model.get_image_features
            out = image_features(pixel_values=x)
            return out if isinstance(out, Tensor) else out.pooler_output
        return self.model(pixel_values=x).image_embeds


def averaged(model: nn.Module) -> nn.Module:
    """A Hugging Face model as a function to (n, dim): its last feature map or tokens, averaged over positions."""
    return _Mean(model)


def timm_network(architecture: str, state: State, purpose: str, arguments: Mapping[str, Any] | None = None) -> Any:
    """A model of timm's without its classifier, with the weights given.

    Args:
        architecture: timm's name, with or without the tag after the dot.
        state: its weights; a classifier among them is left out.
        purpose: what needs it, for the message where timm is absent.
        arguments: further ones for ``timm.create_model``.

    Raises:
        MissingExtraError: timm is not installed.
        ConfigError: timm does not know the name, or the weights are not all of it.
    """
    try:
        import timm
    except ImportError:
        raise MissingExtraError("timm", "encoders", purpose) from None
    try:
        model: Any = timm.create_model(architecture, pretrained=False, **{**(arguments or {}), "num_classes": 0})
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"timm cannot build '{architecture}': {first_line(error)}") from error
    heads = model.pretrained_cfg.get("classifier") or ("head", "fc", "classifier")
    spare = tuple(f"{head}." for head in ((heads,) if isinstance(heads, str) else heads))
    return _filled(model, state, spare)


def _efficientnet_lite(row: FoundationEncoder, state: State, folder: Path) -> nn.Module:
    """EfficientNet-Lite0 under the names of its published PyTorch file, without the classifier."""
    with torch.device("meta"):
        network = EfficientNetLite0()
    _filled(network, {published_name(key): value for key, value in state.items()}, spare=("_fc.",))
    return network.with_norms_folded()


def _resnet50(row: FoundationEncoder, state: State, folder: Path) -> nn.Module:
    """torchvision's ResNet-50 (timm's names are the same), cut after the third of four stages."""
    from transformers import ResNetConfig, ResNetModel

    used = {key: value for key, value in state.items() if not key.startswith(("layer4.", "fc."))}
    renamed = {_resnet_name(key): value for key, value in used.items()}
    config = ResNetConfig(depths=[3, 4, 6], hidden_sizes=[256, 512, 1024])
    return _Mean(_hugging_face(ResNetModel, config, renamed))


def _resnet_name(key: str) -> str:
    key = re.sub(r"^conv1\.", "embedder.embedder.convolution.", key)
    key = re.sub(r"^bn1\.", "embedder.embedder.normalization.", key)
    stage = re.match(r"layer(\d)\.(\d+)\.(conv|bn|downsample\.)(\d)\.(.+)$", key)
    if stage is None:
        return key
    layer = f"encoder.stages.{int(stage[1]) - 1}.layers.{stage[2]}"
    if stage[3] == "downsample.":
        return f"{layer}.shortcut.{('convolution', 'normalization')[int(stage[4])]}.{stage[5]}"
    kind = {"conv": "convolution", "bn": "normalization"}[stage[3]]
    return f"{layer}.layer.{int(stage[4]) - 1}.{kind}.{stage[5]}"


def _ctranspath(row: FoundationEncoder, state: State, folder: Path) -> nn.Module:
    """CTransPath (doi 10.1016/j.media.2022.102559): a tiny Swin transformer behind three convolutions."""
    from transformers import SwinConfig, SwinModel

    computed = ("attn_mask", "relative_position_index")
    state = {key: value for key, value in state.items() if not key.endswith(computed)}
    state = {key: value for key, value in state.items() if not key.startswith("head.")}
    stem_state = {key: state.pop(key) for key in list(state) if key.startswith("patch_embed.proj.")}
    stem = nn.Sequential(
        nn.Conv2d(3, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU(),
        nn.Conv2d(12, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU(),
        nn.Conv2d(24, 96, 1),
    )  # fmt: skip
    _filled(stem, {key.removeprefix("patch_embed.proj."): value for key, value in stem_state.items()})
    renamed = {new: part for key, value in state.items() for new, part in _swin_names(key, value)}
    # The patch projection is replaced by the stem right below.
    unused = {"weight": torch.zeros(96, 3, 4, 4), "bias": torch.zeros(96)}
    renamed |= {f"embeddings.patch_embeddings.projection.{kind}": value for kind, value in unused.items()}
    model = _hugging_face(SwinModel, SwinConfig(), renamed)
    model.embeddings.patch_embeddings.projection = stem
    return _Mean(model)


def _swin_names(key: str, value: Tensor) -> Iterator[tuple[str, Tensor]]:
    """timm 0.5's names of a Swin transformer to Hugging Face's; query, key and value are one matrix there."""
    for old, new in _SWIN_NAMES:
        key = re.sub(old, new, key)
    if ".attention.qkv." not in key:
        yield key, value
        return
    for which, part in zip(("query", "key", "value"), value.chunk(3), strict=True):
        yield key.replace(".attention.qkv.", f".attention.self.{which}."), part


_SWIN_NAMES = (
    (r"^patch_embed\.norm\.", "embeddings.norm."),
    (r"^layers\.", "encoder.layers."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.attn\.relative_position_bias_table$", ".attention.self.relative_position_bias_table"),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.attn\.qkv\.", ".attention.qkv."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
    (r"^norm\.", "layernorm."),
)


def _clip(row: FoundationEncoder, state: State, folder: Path) -> nn.Module:
    """The image tower of a CLIP, from the layout of Hugging Face or of OpenCLIP."""
    from transformers import AutoConfig, CLIPVisionConfig, CLIPVisionModelWithProjection

    if "visual.conv1.weight" in state:
        config, state = _open_clip(state, folder)
    else:
        full = _config(row.name, folder, AutoConfig)
        vision = {**full.vision_config.to_dict(), "projection_dim": full.projection_dim}
        config = CLIPVisionConfig.from_dict(vision)
    state = {key: value for key, value in state.items() if key.startswith(("vision_model.", "visual_projection."))}
    state = {key: value for key, value in state.items() if not key.endswith("position_ids")}
    return _Projection(_hugging_face(CLIPVisionModelWithProjection, config, state))


def _open_clip(state: State, folder: Path) -> tuple[Any, State]:
    """Configuration and renamed weights of an OpenCLIP image tower (a vision transformer)."""
    from transformers import CLIPVisionConfig

    path = folder / "open_clip_config.json"
    if not path.is_file():
        raise ConfigError(f"no open_clip_config.json in '{folder}'; expected it beside the weights")
    settings = json.loads(path.read_text(encoding="utf-8")).get("model_cfg", {})
    width, grid = state["visual.class_embedding"].shape[0], state["visual.positional_embedding"].shape[0] - 1
    patch = state["visual.conv1.weight"].shape[-1]
    blocks = [int(match[1]) for key in state if (match := re.match(r"visual\.transformer\.resblocks\.(\d+)\.", key))]
    config = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=len(state["visual.transformer.resblocks.0.mlp.c_fc.weight"]),
        num_hidden_layers=1 + max(blocks),
        num_attention_heads=width // settings.get("vision_cfg", {}).get("head_width", 64),
        image_size=round(grid**0.5) * patch,
        patch_size=patch,
        projection_dim=state["visual.proj"].shape[1],
        hidden_act="quick_gelu" if settings.get("quick_gelu") else "gelu",
    )
    visual = {key.removeprefix("visual."): value for key, value in state.items() if key.startswith("visual.")}
    return config, {new: part for key, value in visual.items() for new, part in _open_clip_names(key, value)}


def _open_clip_names(key: str, value: Tensor) -> Iterator[tuple[str, Tensor]]:
    if key == "proj":
        yield "visual_projection.weight", value.T.contiguous()
        return
    for old, new in _OPEN_CLIP_NAMES:
        key = re.sub(old, new, key)
    if ".in_proj_" not in key:
        yield f"vision_model.{key}", value
        return
    for which, part in zip("qkv", value.chunk(3), strict=True):
        yield f"vision_model.{key.replace('.in_proj_', f'.{which}_proj.')}", part


_OPEN_CLIP_NAMES = (
    (r"^class_embedding$", "embeddings.class_embedding"),
    (r"^positional_embedding$", "embeddings.position_embedding.weight"),
    (r"^conv1\.", "embeddings.patch_embedding."),
    (r"^ln_pre\.", "pre_layrnorm."),
    (r"^ln_post\.", "post_layernorm."),
    (r"^transformer\.resblocks\.", "encoder.layers."),
    (r"\.ln_(\d)\.", r".layer_norm\1."),
    (r"\.attn\.", ".self_attn."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
)


def _transformers(row: FoundationEncoder, state: State, folder: Path) -> nn.Module:
    return transformers_network(row.name, folder, state)


def transformers_network(name: str, folder: Path, state: State) -> nn.Module:
    """A vision model in Hugging Face's layout as a function to (n, dim): class token, CLIP projection, or mean.

    Raises:
        ConfigError: transformers does not know the model, or the weights are not all of it.
    """
    from transformers import AutoConfig, AutoModel

    config = _config(name, folder, AutoConfig)
    try:
        with torch.device("meta"), transformers_are_quiet():
            model_class = type(AutoModel.from_config(config, trust_remote_code=False))
    except (ValueError, KeyError) as error:
        raise ConfigError(f"transformers cannot build '{config.model_type}': {first_line(error)}") from error
    model = _hugging_face(model_class, config, _without_wrapper(state, model_class))
    return _Projection(model) if hasattr(model, "get_image_features") else _ClassToken(model)


def _without_wrapper(state: State, model_class: Any) -> State:
    """Weights saved from a model with a head carry the bare model's name in front."""
    prefix = f"{model_class.base_model_prefix}."
    if model_class.base_model_prefix and any(key.startswith(prefix) for key in state):
        return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    return state


def _config(name: str, folder: Path, auto: Any) -> Any:
    try:
        return auto.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"no usable config.json in '{folder}': {first_line(error)}") from error


_NOT_FEATURES = ("pooler.", "head.", "classifier.", "lm_head.", "decoder.", "mask_token", "embeddings.mask_token")


def _hugging_face(model_class: Any, config: Any, state: State) -> Any:
    """A transformers model with its weights; unlike ``from_pretrained``, an error where any is missing or left over.

    Its older public names (which published files carry) are understood by transformers, whatever it calls them inside.
    """
    with transformers_are_quiet():
        try:
            model, loading = model_class.from_pretrained(
                None, config=config, state_dict=state, output_loading_info=True
            )
        except (RuntimeError, ValueError, KeyError) as error:
            raise ConfigError(f"transformers cannot load the weights: {first_line(error)}") from error
    missing = sorted(key for key in loading["missing_keys"] if not key.startswith(_NOT_FEATURES))
    extra = sorted(key for key in loading["unexpected_keys"] if not key.startswith(_NOT_FEATURES))
    if missing or extra or loading["mismatched_keys"]:
        wrong = [str(key) for key in loading["mismatched_keys"]]
        raise ConfigError(_difference(missing + wrong, extra))
    return model.float()


_BUILDERS: Mapping[str, Callable[[FoundationEncoder, State, Path], nn.Module]] = {
    "timm_vit": _timm_vit,
    "hibou": _hibou,
    "keep": _keep,
    "conch_v1": _conch,
    "conch_v1_5": _conch15,
    "efficientnet_lite": _efficientnet_lite,
    "resnet50": _resnet50,
    "ctranspath": _ctranspath,
    "clip": _clip,
    "transformers": _transformers,
}
"""How each published layout is read."""
