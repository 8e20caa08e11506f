"""Builds the networks that turn an image of a part into a vector of length one.

A copy of this file is kept with every index in MLflow and used there, so it imports nothing of this project.
"""

import math
from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

SMALL_WIDTHS = (32, 64, 128, 256)
"""Channels of the small network: after its stem, and after each of its three blocks."""

_N_DIRECTIONS, _EDGE_SIZE = 8, 5
_NEAR = 4  # pixels to each side, over which the strength of edges is evened out


class Block(nn.Module):
    """Two convolutions of 3x3 and a shortcut, at half the resolution.

    Source: He et al. 2015 (arXiv:1512.03385) fig. 2.
    """

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.first = _convolution(n_in, n_out, 3, 2)
        self.second = _convolution(n_out, n_out, 3, 1)
        self.shortcut = nn.Sequential(nn.AvgPool2d(2, ceil_mode=True), _convolution(n_in, n_out, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Take (B, n_in, H, W), give (B, n_out, H / 2, W / 2), rounded up."""
        return F.relu(self.second(F.relu(self.first(x))) + self.shortcut(x))


def _convolution(n_in: int, n_out: int, size: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(n_in, n_out, size, stride, padding=size // 2, bias=False), nn.BatchNorm2d(n_out))


class Edges(nn.Module):
    """Grey and the strength of edges in eight directions, both free of brightness and contrast; nothing is learned.

    A mesh says nothing of colour and light, and a network need not learn to overlook them, nor what an edge is. After
    500 steps on the demo's ten parts 0.60 of the held-out views were named rightly, from grey alone 0.53, from colours
    0.42. Source: the normalised gradients of Dalal and Triggs 2005 (HOG), without their cells.
    """

    def __init__(self) -> None:
        super().__init__()
        offsets = torch.arange(_EDGE_SIZE) - _EDGE_SIZE // 2
        y, x = torch.meshgrid(offsets, offsets, indexing="ij")
        slopes = torch.stack([x, y]) * torch.exp(-(x.square() + y.square()) / 2)
        angles = 2 * math.pi * torch.arange(_N_DIRECTIONS) / _N_DIRECTIONS
        ways = torch.stack([angles.cos(), angles.sin()], dim=1)
        # A slope in any direction is a sum of the two (Freeman and Adelson 1991, steerable filters).
        ways = ways / (ways @ slopes.flatten(1)).abs().sum(1, keepdim=True)
        self.register_buffer("slopes", slopes[:, None], persistent=False)  # (2, 1, 5, 5)
        self.register_buffer("ways", ways[:, :, None, None], persistent=False)  # (8, 2, 1, 1)
        self._power = float(ways.square().sum()) / 4  # of a slope of 1 in any direction, over those it is positive in

    def forward(self, x: Tensor) -> Tensor:
        """Take (B, C, H, W), give (B, 9, H, W)."""
        grey = x.mean(1, keepdim=True)
        centred = grey - grey.mean((2, 3), keepdim=True)
        grey = centred / (centred.square().mean((2, 3), keepdim=True).sqrt() + 1e-3)
        slopes = F.conv2d(grey, cast(Tensor, self.slopes), padding=_EDGE_SIZE // 2)
        power = self._power * (slopes[:, :1].square() + slopes[:, 1:].square())
        # A mean over 9x9 as two products of matrices: pooling sums one number after the other.
        power = _means(x.shape[2], power) @ power @ _means(x.shape[3], power).T
        edges = F.relu(F.conv2d(slopes * (1 / (power.sqrt() + 0.03)), cast(Tensor, self.ways)))
        return torch.cat([grey.to(edges.dtype), edges], 1)


def _means(n: int, like: Tensor) -> Tensor:
    """Return the matrix (n, n) that takes the mean over nine places, fewer at the ends."""
    places = torch.arange(n, device=like.device)
    near = ((places[:, None] - places).abs() <= _NEAR).to(like.dtype)
    return near / near.sum(1, keepdim=True)


class SmallNet(nn.Sequential):
    """A residual network of three blocks over edges, made for training on a CPU: (B, 3, S, S) -> (B, 256)."""

    def __init__(self) -> None:
        stem = nn.Sequential(_convolution(1 + _N_DIRECTIONS, SMALL_WIDTHS[0], 5, 2), nn.ReLU(), nn.MaxPool2d(2))
        blocks = [Block(*pair) for pair in zip(SMALL_WIDTHS, SMALL_WIDTHS[1:], strict=False)]
        super().__init__(Edges(), stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())


class TransformersFeatures(nn.Module):
    """The features of a model of transformers: its pooled output, else the mean over places."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Take (B, 3, S, S), give (B, F)."""
        found = self.model(pixel_values=x)
        pooled = getattr(found, "pooler_output", None)
        if pooled is None:
            last = found.last_hidden_state
            pooled = last.mean(1) if last.ndim == 3 else last.mean((2, 3))
        return cast(Tensor, pooled.flatten(1))


class Embedder(nn.Module):
    """Normalisation of pixels, a backbone, perhaps a linear layer, and the division by the length.

    Args:
        backbone: (B, 3, S, S) -> (B, n_features).
        n_features: of the backbone.
        config: `dimension` of the vectors (None: those of the backbone as they are), `mean` and `std` of the pixels,
            and `quarter_turns`: whether a vector is the mean over the image and its three quarter turns.
    """

    def __init__(self, backbone: nn.Module, n_features: int, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.backbone = backbone
        self.dimension: int = config["dimension"] or n_features
        self.quarter_turns: bool = config["quarter_turns"]
        self.project: nn.Module = nn.Identity()
        if config["dimension"]:
            linear = nn.Linear(n_features, self.dimension, bias=False)
            self.project = nn.Sequential(linear, nn.BatchNorm1d(self.dimension))
        scale = 255 * torch.tensor(config["std"]).view(3, 1, 1)
        # Not part of the weights: they stand in the configuration.
        self.register_buffer("scale", 1 / scale, persistent=False)
        self.register_buffer("shift", -255 * torch.tensor(config["mean"]).view(3, 1, 1) / scale, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Take (B, 3, S, S) RGB, uint8 or as large numbers; give (B, D) float32 of length 1."""
        x = images.float() * cast(Tensor, self.scale) + cast(Tensor, self.shift)
        if self.training or not self.quarter_turns:  # while it is trained, views are turned by any angle
            return self._vectors(x)
        return F.normalize(torch.stack([self._vectors(torch.rot90(x, n, (2, 3))) for n in range(4)]).sum(0), dim=1)

    def _vectors(self, x: Tensor) -> Tensor:
        return F.normalize(self.project(self.backbone(x)).float(), dim=1)


def build(config: Mapping[str, Any]) -> Embedder:
    """Return the embedder of an index, freshly initialised.

    Args:
        config: `backbone` (a name, or "transformers" with the configuration of such a model under that key), and what
            `Embedder` needs.
    """
    name = config["backbone"]
    if name == "transformers":
        return with_transformers(_transformers_model(config["transformers"]), config)
    if name == "small":
        return Embedder(SmallNet(), SMALL_WIDTHS[-1], config)
    backbone = cast(nn.Module, torchvision.models.get_model(name, weights=None))
    head = "fc" if name.startswith("resnet") else "classifier"
    first = getattr(backbone, head)
    n_features = cast(nn.Linear, first if isinstance(first, nn.Linear) else first[0]).in_features
    setattr(backbone, head, nn.Identity())
    return Embedder(backbone, n_features, config)


def with_transformers(model: Any, config: Mapping[str, Any]) -> Embedder:
    """Return an embedder that takes its features from a model of transformers."""
    sizes = getattr(model.config, "hidden_sizes", None)  # of networks whose width grows
    return Embedder(TransformersFeatures(model), int(sizes[-1] if sizes else model.config.hidden_size), config)


def _transformers_model(values: Mapping[str, Any]) -> Any:
    from transformers import AutoConfig, AutoModel  # noqa: PLC0415 - seconds, and only where such a backbone is used

    return AutoModel.from_config(AutoConfig.for_model(**values), trust_remote_code=False)
