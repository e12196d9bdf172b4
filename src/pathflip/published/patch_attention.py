"""How queries read patches when no gradient is asked for: of slides and their regions, or of a slide in chunks.

Both readers take queries in patch space (``qformer.py``) and hand back what each found, the weighted sum of its
patches. A softmax over all patches is the softmax over each part times the part's share, which is the softmax of the
parts' log-sum-exp: so parts can be read one by one and put together.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["ChunkReader", "PatchReader"]


def _masked(scores: Float[Tensor, "*b S"], mask: Bool[Tensor, "... S"] | None) -> Float[Tensor, "*b S"]:
    return scores if mask is None else scores.masked_fill(~mask, torch.finfo(scores.dtype).min)


def _put_together(sums: Float[Tensor, "P *q E"], scores: Float[Tensor, " P *q"]) -> Float[Tensor, "*q E"]:
    """What queries find in all parts, from what they find in each and its log-sum-exp."""
    return (scores.softmax(0).unsqueeze(-1) * sums).sum(0)


class PatchReader:
    """Slides and their regions, patches (B, L, S, E).

    Row 0 of the queries reads all patches of a slide, row 1 + l those of region l. ``slide`` False: there is no row 0.
    """

    def __init__(
        self, x: Float[Tensor, "B L S E"], mask: Bool[Tensor, "B L S"] | None = None, slide: bool = True
    ) -> None:
        self.x, self.mask, self.slide = x, mask, slide

    @property
    def rows(self) -> tuple[int, int]:
        """B, and R: rows of queries a slide."""
        return len(self.x), self.x.shape[1] + int(self.slide)

    def read(self, u: Float[Tensor, "b r M E"]) -> Float[Tensor, "B R M E"]:
        """What the queries find. One row (b = r = 1) stands for all: then each patch meets each query once."""
        batch, num_regions = self.x.shape[:2]
        count, alike = u.shape[2], u.shape[:2] == (1, 1)
        if alike:
            u = u.expand(batch, num_regions, -1, -1)
        elif self.slide:  # its queries go from region to region beside the region's own
            u = torch.cat([u[:, 1:], u[:, :1].expand(-1, num_regions, -1, -1)], dim=2)
        patches = self.x.flatten(0, 1)
        scores = (u.flatten(0, 1) @ patches.mT).transpose(0, 1)  # (M or 2·M, B·L, S)
        scores = _masked(scores, None if self.mask is None else self.mask.flatten(0, 1))
        sums = (self._weights(scores, count).transpose(0, 1) @ patches).transpose(0, 1)
        sums = sums.unflatten(1, (batch, num_regions))
        regions = sums[:count].permute(1, 2, 0, 3)
        if not self.slide:
            return regions
        if alike:
            mass = scores.logsumexp(-1).unflatten(1, (batch, num_regions))
            of_slide = _put_together(sums.permute(2, 1, 0, 3), mass.permute(2, 1, 0))
        else:
            of_slide = sums[count:].sum(2).transpose(0, 1)
        return torch.cat([of_slide.unsqueeze(1), regions], dim=1)

    def _weights(self, scores: Float[Tensor, "q BL S"], count: int) -> Float[Tensor, "q BL S"]:
        """Softmax: of the first ``count`` queries over each region, of the others over all regions of a slide."""
        weights = scores.new_empty(scores.shape)
        torch.softmax(scores[:count], -1, out=weights[:count])
        if len(scores) > count:
            slides = (count, len(self.x), -1)
            torch.softmax(scores[count:].reshape(slides), -1, out=weights[count:].view(slides))
        return weights


class ChunkReader:
    """A slide's patches in chunks (B, n, E), read by one row of queries, the slide's."""

    def __init__(self, chunks: Sequence[tuple[Float[Tensor, "B _ E"], Bool[Tensor, "B _"] | None]]) -> None:
        self.chunks = chunks
        self.x = chunks[0][0]

    @property
    def rows(self) -> tuple[int, int]:
        """Number of slides, and one row each."""
        return len(self.x), 1

    def read(self, u: Float[Tensor, "b 1 M E"]) -> Float[Tensor, "B 1 M E"]:
        """What the queries find in all chunks together."""
        u = u[:, 0].expand(len(self.x), -1, -1)
        sums, scores = [], []
        for x, mask in self.chunks:
            part = _masked(u @ x.mT, None if mask is None else mask.unsqueeze(1))
            sums.append(part.softmax(-1) @ x)
            scores.append(part.logsumexp(-1))
        return _put_together(torch.stack(sums), torch.stack(scores)).unsqueeze(1)
