"""Losses that draw the views of a part together on the unit sphere, and parts apart."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Loss = Literal["softmax", "cosface", "arcface"]


class MarginHead(nn.Module):
    """A direction for each class; the logit of a class is the cosine to it, less a margin for the right one.

    softmax: no margin, NormFace (arXiv:1704.06369) eq. 4. cosface: s (cos t - m), CosFace (arXiv:1801.09414) eq. 4.
    arcface: s cos(t + m), ArcFace (arXiv:1801.07698) eq. 3.

    Args:
        dimension: of the vectors.
        n_classes: at least 1.
        loss: which of the three.
        margin: m, as a cosine or in radians.
        scale: s.
    """

    def __init__(self, dimension: int, n_classes: int, loss: Loss, margin: float, scale: float) -> None:
        super().__init__()
        self.directions = nn.Parameter(nn.init.xavier_normal_(torch.empty(n_classes, dimension)))
        self.loss, self.margin, self.scale = loss, margin, scale
        self.share = 1.0  # of the margin, in force now

    def forward(self, vectors: Tensor, labels: Tensor) -> Tensor:
        """Take (B, D) of length 1 and (B,) class numbers; give (B, n_classes) logits, the margin in them."""
        # Part of the loss, not of the network: in bf16 a cosine near 1 has steps of 0.004, a fiftieth of the margin.
        with torch.autocast(vectors.device.type, enabled=False):
            cosines = vectors.float() @ F.normalize(self.directions, dim=1).T
        if self.loss == "softmax":
            return self.scale * cosines
        right = cosines.gather(1, labels[:, None])
        return self.scale * cosines.scatter(1, labels[:, None], self._less(right))

    def _less(self, right: Tensor) -> Tensor:
        margin = self.share * self.margin
        if self.loss == "cosface":
            return right - margin
        # cos(t + m) = cos t cos m - sin t sin m; the square root has no slope at 0.
        sines = (1 - right.square()).clamp(min=1e-6).sqrt()
        turned = right * math.cos(margin) - sines * math.sin(margin)
        # Beyond pi - m the cosine would rise again: a straight line there, as in the authors' code.
        return torch.where(right > -math.cos(margin), turned, right - margin * math.sin(margin))
