"""A tiny alignment model and a random batch for it."""

import torch

from pathflip.models import build_model
from pathflip.types import AlignBatch

B, N, D, K, T, U, V = 3, 20, 7, 3, 9, 6, 50


def make_batch(seed=0) -> AlignBatch:
    g = torch.Generator().manual_seed(seed)
    patch_mask = torch.rand(B, N, generator=g) > 0.3
    patch_mask[:, 0] = True
    lengths = torch.randint(2, U + 1, (B, K, 1), generator=g)
    caption_lengths = torch.randint(3, T + 1, (B, 1), generator=g)
    sub_caption_mask = torch.ones(B, K, dtype=torch.bool)
    sub_caption_mask[1, 2] = False
    token_mask = (torch.arange(U) < lengths) & sub_caption_mask[..., None]
    return AlignBatch(
        slide_ids=tuple("abc"),
        patches=torch.randn(B, N, D, generator=g),
        patch_mask=patch_mask,
        context=torch.randn(B, N, D, generator=g),
        position=torch.rand(B, N, 2, generator=g),
        caption_ids=torch.randint(4, V, (B, T), generator=g),
        caption_mask=torch.arange(T) < caption_lengths,
        sub_caption_ids=torch.randint(4, V, (B, K, U), generator=g),
        sub_caption_token_mask=token_mask,
        sub_caption_mask=sub_caption_mask,
        sub_caption_negated=torch.tensor([[0, 1, 0], [0, 0, 0], [1, 0, 0]], dtype=torch.bool),
        sub_caption_false=torch.tensor([[0, 0, 1], [0, 0, 0], [0, 0, 0]], dtype=torch.bool),
        sub_caption_keys=torch.tensor([[1, 2, 3], [1, 5, 0], [6, 7, 8]]),
        caption_keys=torch.tensor([[1, 2, 0], [1, 5, 9], [6, 7, 8]]),
    )


def tiny(kind: str, **changes):
    torch.manual_seed(0)
    sizes = {"feature_dim": D, "vocab_size": V, "width": 16, "embed_dim": 8, "text_width": 16, "text_heads": 2}
    model = build_model({"kind": kind, **sizes, "dropout": 0.0, **changes}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model
