"""Builds the networks that find parts, torchvision's and transformers', behind one face.

A copy of this file is kept with every detector in MLflow and used there, so it imports nothing of this project.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torchvision.models import detection
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOSClassificationHead, FCOSHead, FCOSRegressionHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.resnet import BasicBlock
from torchvision.ops import FeaturePyramidNetwork

MAX_FOUND = 100
"""Detections kept of an image; as many as COCO's mean average precision counts."""
MIN_SCORE = 0.01
"""Detections below are not worth keeping, not even for the left end of a precision-recall curve."""

Targets = Sequence[Mapping[str, Tensor]]
"""Per image `boxes` (M, 4) float32, left, top, right, bottom in pixels, and `labels` (M,) int64 from 0."""
Found = list[dict[str, Tensor]]
"""Per image `boxes` and `labels` as in `Targets`, and `scores` (M,) float32 in [0, 1], highest first."""


class Detector(nn.Module):
    """A network that gives losses while it is trained, and detections afterwards.

    Args:
        image_size: S, pixels on a side.
    """

    skips = False
    """Whether losses may leave weights out, by what there is on the images."""

    def __init__(self, image_size: int) -> None:
        super().__init__()
        self.image_size = image_size

    def losses(self, images: Tensor, targets: Targets) -> dict[str, Tensor]:
        """Return each part of the loss, a scalar that is the mean over images (B, 3, S, S) in [0, 1]."""
        raise NotImplementedError

    def n_counted(self, targets: Targets) -> int | Tensor:
        """Return by how many images, places or boxes the losses of these targets, just computed, were divided.

        0 stands for 1: that is what networks divide by where there is nothing. Where several processes have a part of
        a batch each, the loss of the batch is the mean of theirs, weighed by these numbers. A network that counts on
        the device gives a scalar there, which nobody has to wait for.
        """
        return len(targets)

    def find(self, images: Tensor) -> Found:
        """Return what is found on images (B, 3, S, S) in [0, 1]."""
        raise NotImplementedError

    def forward(self, images: Tensor, targets: Targets | None = None) -> dict[str, Tensor] | Found:
        """Return losses where targets are given, else detections."""
        return self.find(images) if targets is None else self.losses(images, targets)


class TorchvisionDetector(Detector):
    """One of torchvision's detectors.

    Args:
        network: takes images and, in training, targets.
        image_size: S.
        first_label: of the first part: 1 where 0 is the background.
    """

    def __init__(self, network: nn.Module, image_size: int, first_label: int) -> None:
        super().__init__(image_size)
        self.network, self._first = network, first_label
        network.transform = _SameSize(cast(Any, network.transform))
        two_stages = hasattr(network, "rpn")  # faster R-CNN
        first: Any = network.rpn if two_stages else network
        first.anchor_generator = _ExactPlaces(first.anchor_generator)
        _answer_exactly(first.head, *([cast(Any, network).roi_heads.box_predictor] if two_stages else []))

    def losses(self, images: Tensor, targets: Targets) -> dict[str, Tensor]:
        """See Detector."""
        rows = [{"boxes": row["boxes"], "labels": row["labels"] + self._first} for row in targets]
        return cast(dict[str, Tensor], self.network(images, rows))

    def n_counted(self, targets: Targets) -> int | Tensor:
        """See Detector; faster R-CNN divides by what it draws, of each image as much."""
        return self.network.n_places if isinstance(self.network, (_SmallFcos, _Ssd)) else len(targets)

    def find(self, images: Tensor) -> Found:
        """See Detector."""
        found = [{name: row[name] for name in ("boxes", "scores", "labels")} for row in self.network(images)]
        for row in found:
            row["labels"] = row["labels"] - self._first
            row["boxes"], row["scores"] = row["boxes"].float(), row["scores"].float()
        return found


class _ExactPlaces(nn.Module):
    """Gives places in float32. In bf16, which features may have, those beyond 1,024 pixels are 0 or 16 wide, not 8.

    Args:
        generator: torchvision's, of anchors or default boxes.
    """

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, images: ImageList, features: Sequence[Tensor]) -> list[Tensor]:
        """Return the places (P, 4) for each image; of features only sizes count."""
        return cast(list[Tensor], self.generator(images, [level[:1, :1].float() for level in features]))


class _Exact(nn.Module):
    """Computes in float32 whatever the format around it is: the sides of D-FINE's boxes are sums of its numbers."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, first: Tensor, *others: Tensor) -> Tensor:
        """Return what the module returns."""
        with torch.autocast(first.device.type, enabled=False):
            return cast(Tensor, self.inner(first.float(), *(each.float() for each in others)))


def _answer_exactly(*heads: nn.Module) -> None:
    """Let heads answer in float32.

    Boxes are made of their answers in the same format, and in bf16 lie 2 pixels apart from 256 on, 4 from 512 on.
    """
    for head in heads:
        head.register_forward_hook(_as_float)


def _as_float(head: nn.Module, given: Any, out: Any) -> Any:
    if isinstance(out, Tensor):
        return out.float()
    if isinstance(out, dict):
        return {name: _as_float(head, given, value) for name, value in out.items()}
    return type(out)(_as_float(head, given, value) for value in out)


class _SameSize(nn.Module):
    """Normalises images (B, 3, S, S) all at once, in the place of torchvision's transform.

    That one resizes each image to the size it has, and takes its mean and spread to the device each time, for which a
    GPU is waited for. Sides are multiples of 32, as its networks need them.

    Args:
        transform: torchvision's, for its `image_mean` and `image_std`.
    """

    def __init__(self, transform: Any) -> None:
        super().__init__()
        for name in ("mean", "std"):  # not part of the weights: they are the same in every detector
            values = torch.tensor(getattr(transform, f"image_{name}")).view(3, 1, 1)
            self.register_buffer(name, values, persistent=False)

    def forward(self, images: Tensor, targets: Any = None) -> tuple[ImageList, Any]:
        """Return the images with the sizes that torchvision asks for, and the targets."""
        normal = (images - cast(Tensor, self.mean)) / cast(Tensor, self.std)
        return ImageList(normal, [(images.shape[-2], images.shape[-1])] * len(images)), targets

    def postprocess(self, found: Found, sizes: Any, original_sizes: Any) -> Found:
        """Return the detections, whose boxes are right for images in their own size."""
        return found


class TransformersDetector(Detector):
    """One of transformers' detectors, whose queries are matched to parts: RF-DETR, D-FINE.

    Args:
        network: takes `pixel_values` and, in training, `labels`.
        image_size: S.
        mean, std: of the pixels it expects.
    """

    skips = True  # D-FINE, where there are no parts: what learns to restore boxes that were altered

    def __init__(self, network: nn.Module, image_size: int, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__(image_size)
        self.network = network
        # Not part of the weights: they stand in the configuration.
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def _normal(self, images: Tensor) -> Tensor:
        return (images - cast(Tensor, self.mean)) / cast(Tensor, self.std)

    def losses(self, images: Tensor, targets: Targets) -> dict[str, Tensor]:
        """See Detector; the parts are of the last layer, `auxiliary` is the sum of those of the layers before it."""
        rows = [{"class_labels": row["labels"], "boxes": self._shares(row["boxes"])} for row in targets]
        out = self.network(pixel_values=self._normal(images), labels=rows)
        weights = _loss_weights(self.network.config)
        parts = {name: weights[name] * value for name, value in out.loss_dict.items() if name in weights}
        return {**parts, "auxiliary": out.loss - sum(parts.values())}

    def n_counted(self, targets: Targets) -> int:
        """See Detector; RF-DETR itself divides by the mean number of boxes of all processes."""
        if cast(Any, self.network).config.model_type == "rf_detr":
            return 1
        return sum(len(row["labels"]) for row in targets)

    def _shares(self, boxes: Tensor) -> Tensor:
        """Return centre, width and height as shares of the image."""
        low, high = boxes[:, :2], boxes[:, 2:]
        return torch.cat([(low + high) / 2, high - low], dim=1) / self.image_size

    def find(self, images: Tensor) -> Found:
        """See Detector."""
        out = self.network(pixel_values=self._normal(images))
        scores, boxes = out.logits.float().sigmoid(), out.pred_boxes.float()  # (B, Q, C), (B, Q, 4)
        low, high = boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2
        corners = (self.image_size * torch.cat([low, high], dim=-1)).clamp(0, self.image_size)
        best, places = scores.flatten(1).topk(min(MAX_FOUND, scores[0].numel()), dim=1)
        n_classes = scores.shape[2]
        return [_kept(row, score, place, n_classes) for row, score, place in zip(corners, best, places, strict=True)]


def _kept(corners: Tensor, scores: Tensor, places: Tensor, n_classes: int) -> dict[str, Tensor]:
    keep = scores > MIN_SCORE
    queries = places[keep] // n_classes
    return {"boxes": corners[queries], "scores": scores[keep], "labels": places[keep] % n_classes}


def _loss_weights(config: Any) -> dict[str, float]:
    """Return by what the losses of a model of transformers add up to its whole loss; D-FINE's are weighted already."""
    if config.model_type == "d_fine":
        return dict.fromkeys(("loss_vfl", "loss_bbox", "loss_giou", "loss_fgl"), 1.0)
    names = {"ce": config.class_loss_coefficient, "bbox": config.bbox_loss_coefficient}
    return {f"loss_{name}": float(value) for name, value in {**names, "giou": config.giou_loss_coefficient}.items()}


class LocalContrast(nn.Module):
    """Takes from each place of an image the mean of the places around it, and divides by how much these vary.

    What tells parts apart is their shape. Colour, brightness and shade of rendered parts are drawn at random, so a
    network has to learn to look past them first, which takes most of a short training. Of colours only grey is left.

    Source: Jarrett et al. 2009, What is the best multi-stage architecture for object recognition?, sec. 2.1.
    """

    _COARSE, _AROUND = 8, 5  # around a place are 40 pixels: the mean of squares of 5x5 cells of 8x8 pixels

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Take (B, 3, H, W) of mean 0 and spread 1, sides in multiples of 8; give (B, 1, H, W)."""
        with torch.autocast(images.device.type, enabled=False):
            grey = images.float().mean(1, keepdim=True)
            apart = grey - self._mean(grey)
            return apart / (self._mean(apart**2).sqrt() + 0.1)

    def _mean(self, x: Tensor) -> Tensor:
        """Return the means around places, found on a coarse grid: windows as large cost more than the network."""
        cells = F.avg_pool2d(x, self._COARSE)
        means = F.avg_pool2d(cells, self._AROUND, 1, self._AROUND // 2, count_include_pad=False)
        return F.interpolate(means, size=x.shape[-2:], mode="bilinear", align_corners=False)


class SmallBackbone(nn.Module):
    """A small residual network for looking at shapes, with a pyramid of features on top.

    Args:
        widths: channels after the stem and after each stage; a stage halves the resolution.
        n_out: channels of each level of the pyramid, whose strides are 8, 16 and 32.
    """

    def __init__(self, widths: Sequence[int], n_out: int) -> None:
        super().__init__()
        first = widths[0]
        self.contrast = LocalContrast()
        self.stem = nn.Sequential(*_halved(1, first // 2), *_halved(first // 2, first))
        self.stages = nn.ModuleList(_stage(*pair) for pair in zip(widths[:-1], widths[1:], strict=True))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.pyramid = FeaturePyramidNetwork(list(widths[1:]), n_out, norm_layer=nn.BatchNorm2d)
        self.out_channels = n_out

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the levels of the pyramid of images (B, 3, S, S), the finest first."""
        x, levels = self.stem(self.contrast(images)), {}
        for number, stage in enumerate(self.stages):
            x = levels[str(number)] = stage(x)
        return cast(dict[str, Tensor], self.pyramid(levels))


def _halved(n_in: int, n_out: int) -> list[nn.Module]:
    convolution = nn.Conv2d(n_in, n_out, 3, stride=2, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(n_out), nn.ReLU(inplace=True)]


def _stage(n_in: int, n_out: int) -> nn.Module:
    shortcut = nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride=2, bias=False), nn.BatchNorm2d(n_out))
    return cast(nn.Module, BasicBlock(n_in, n_out, 2, shortcut))


class _Levels(nn.Module):
    """One head of FCOS on all levels: convolutions that the levels share, and norms of their own.

    Batch norm that is shared keeps an average over levels that differ, and is off on each of them: boxes came out a
    seventh too large.

    Args:
        build: makes the head of a level.
        last: names of its last layers, which the levels share.
    """

    def __init__(self, build: Callable[[], nn.Module], last: Sequence[str]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(build() for _ in range(3))
        first = self.levels[0]
        for other in list(self.levels)[1:]:
            for number, layer in enumerate(cast(nn.Sequential, first.conv)):
                if isinstance(layer, nn.Conv2d):
                    cast(nn.Sequential, other.conv)[number] = layer
            for name in last:
                setattr(other, name, getattr(first, name))

    def forward(self, features: list[Tensor]) -> Any:
        """Return what torchvision's head returns, in float32: the loss sums over all places."""
        found = [level([each]) for level, each in zip(self.levels, features, strict=True)]
        if isinstance(found[0], tuple):
            return tuple(torch.cat(parts, dim=1).float() for parts in zip(*found, strict=True))
        return torch.cat(found, dim=1).float()


class _SmallHead(FCOSHead):  # type: ignore[misc]
    """FCOS's head with other losses, which learn from few images to tell similar parts apart.

    FCOS asks of each place and part whether the part is there, and most places say no. Here a place says how well its
    box fits (0 where nothing is), and, where a part is, which one: a classifier's loss, on these places alone.

    Source: FCOS (arXiv:1904.01355); the quality of a box in the place of its centre-ness, quality focal loss:
    arXiv:2006.04388.

    Args:
        width: channels of the levels.
        n_classes: number of parts.
        depth: convolutions before the last one.
    """

    _FOCUS = 1.5  # exponent of quality focal loss
    _PRIOR = 0.05  # of a place to have a box, before anything is learnt

    def __init__(self, width: int, n_classes: int, depth: int) -> None:
        super().__init__(width, 1, n_classes, depth)
        # Batch norm takes half the time of group norm.
        self.classification_head = _Levels(
            partial(FCOSClassificationHead, width, 1, n_classes, depth, 0.5, norm_layer=nn.BatchNorm2d), ("cls_logits",)
        )
        boxes = partial(FCOSRegressionHead, width, 1, depth, norm_layer=nn.BatchNorm2d)
        self.regression_head = _Levels(boxes, ("bbox_reg", "bbox_ctrness"))
        first = cast(Any, self.regression_head.levels[0])
        nn.init.constant_(first.bbox_ctrness.bias, -math.log((1 - self._PRIOR) / self._PRIOR))

    def forward(self, features: list[Tensor]) -> dict[str, Tensor]:
        """Return what FCOS takes: when finding, logits whose sigmoid is the softmax over the parts."""
        out = cast(dict[str, Tensor], super().forward(features))
        if not self.training:
            out["cls_logits"] = out["cls_logits"].softmax(-1).clamp(1e-6, 1 - 1e-6).logit()
        return out

    def losses(self, out: dict[str, Tensor], places: Tensor, boxes: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the parts of the loss. All places are computed, for choosing some makes a program wait for a GPU.

        Args:
            out: of the head, for B images and P places.
            places: (P, 4) squares around them.
            boxes: (B, P, 4) of the part that each place is to find; anything where it is to find none.
            labels: (B, P) of the parts, -1 where there is none.
        """
        there = labels >= 0
        n_places = there.sum().clamp(min=1)
        found = self.box_coder.decode(out["bbox_regression"], places)
        overlap, generalized = _overlaps(found, boxes)
        fit = out["bbox_ctrness"].squeeze(2)
        wanted = torch.where(there, overlap.detach(), 0.0).to(fit.dtype)
        weight = (fit.detach().sigmoid() - wanted).abs() ** self._FOCUS
        each = F.binary_cross_entropy_with_logits(fit, wanted, reduction="none")
        logits = out["cls_logits"].flatten(0, 1)
        classes = F.cross_entropy(logits, labels.flatten(), reduction="sum", ignore_index=-1)
        return {
            "classification": classes / n_places,
            "box": torch.where(there, 1 - generalized, 0.0).sum() / n_places,
            "quality": (weight * each).sum() / n_places,
        }


def _overlaps(boxes: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Return the intersection over union (...,) of boxes (..., 4) pair by pair, and the generalized one.

    Source: Rezatofighi et al. 2019 (arXiv:1902.09630).
    """
    low, high = torch.maximum(boxes[..., :2], others[..., :2]), torch.minimum(boxes[..., 2:], others[..., 2:])
    first, last = torch.minimum(boxes[..., :2], others[..., :2]), torch.maximum(boxes[..., 2:], others[..., 2:])
    common, around = _area((high - low).clamp(min=0)), _area(last - first)
    union = _area(boxes[..., 2:] - boxes[..., :2]) + _area(others[..., 2:] - others[..., :2]) - common
    overlap = common / union.clamp(min=1e-6)
    return overlap, overlap - (around - union) / around.clamp(min=1e-6)


def _area(sides: Tensor) -> Tensor:
    return sides[..., 0] * sides[..., 1]


class _SmallFcos(detection.FCOS):  # type: ignore[misc]
    """FCOS whose places are matched with parts for all images at once, and never by waiting for a GPU."""

    n_places: int | Tensor = 0
    """With a part, of the last loss."""

    def forward(self, images: Tensor, targets: Targets | None = None) -> Any:
        """Return losses where targets are given, else detections."""
        if targets is None:
            return super().forward(images)
        scenes, _ = self.transform(images)
        levels = list(self.backbone(scenes.tensors).values())
        one = ImageList(scenes.tensors, scenes.image_sizes[:1])  # the places of one image are those of all
        places = self.anchor_generator(one, levels)[0]
        # A row more than the fullest image has parts, so that there is one.
        boxes = F.pad(pad_sequence([row["boxes"] for row in targets], batch_first=True), (0, 0, 0, 1))
        labels = F.pad(pad_sequence([row["labels"] for row in targets], True, -1), (0, 1), value=-1)
        which = self._matched(places, [level[0, 0].numel() for level in levels], boxes, labels >= 0)
        there, which = which >= 0, which.clamp(min=0)
        self.n_places = there.sum()
        wanted = labels.gather(1, which).where(there, -1)
        chosen = boxes.gather(1, which[..., None].expand(-1, -1, 4))
        return self.head.losses(self.head(levels), places, chosen, wanted)

    @torch.no_grad()
    def _matched(self, places: Tensor, sizes: Sequence[int], boxes: Tensor, real: Tensor) -> Tensor:
        """Return which box each place is to find, (B, P), -1 where there is none.

        A place lies in the box and near its middle, and its level is the one for boxes of that size; of several boxes
        it is the smallest. Source: FCOS (arXiv:1904.01355) sec. 3.1 and 3.2, and its center sampling.

        Args:
            places: (P, 4) squares, level after level.
            sizes: places of each level.
            boxes: (B, M, 4).
            real: (B, M), false where there is no box.
        """
        side = places[:, 2] - places[:, 0]
        x, y = ((places[:, :2] + places[:, 2:]) / 2).T[..., None]  # (P, 1) each
        left, top, right, bottom = boxes[:, None].unbind(-1)  # (B, 1, M) each
        ways = (x - left, y - top, right - x, bottom - y)  # (B, P, M) each
        nearest, farthest = reduce(torch.minimum, ways), reduce(torch.maximum, ways)
        off = torch.maximum((x - (left + right) / 2).abs(), (y - (top + bottom) / 2).abs())
        least, most = 4 * side, 8 * side
        least[: sizes[0]] = 0
        most[-sizes[-1] :] = math.inf
        fits = (
            (farthest > least[:, None])
            & (farthest < most[:, None])
            & (off < self.center_sampling_radius * side[:, None])
        )
        area = torch.where(fits & (nearest > 0) & real[:, None], (right - left) * (bottom - top), math.inf)
        smallest, which = area.min(-1)
        return which.where(smallest < math.inf, -1)


def _fcos_small(n_classes: int, size: int) -> Detector:
    width = 64
    backbone = SmallBackbone((32, 64, 128, 256), width)
    anchors = AnchorGenerator(((8,), (16,), (32,)), ((1.0,),) * 3)
    shared = {"score_thresh": MIN_SCORE, "nms_thresh": 0.5, "detections_per_img": MAX_FOUND, "topk_candidates": 300}
    sizes = {"min_size": size, "max_size": size}
    head = _SmallHead(width, n_classes, 2)
    network = _SmallFcos(backbone, n_classes, anchor_generator=anchors, head=head, **sizes, **shared)
    return TorchvisionDetector(network, size, first_label=0)


class _Ssd(detection.ssd.SSD):  # type: ignore[misc]
    """SSD, which says of how many places with a part its last loss is the mean."""

    n_places: int | Tensor = 0

    def compute_loss(self, *given: Any) -> dict[str, Tensor]:
        """Return the parts of the loss; the arguments are those that SSD gives, the last one which part lies where."""
        self.n_places = (torch.stack(given[-1]) >= 0).sum()
        return cast(dict[str, Tensor], super().compute_loss(*given))


def _ssdlite(n_classes: int, size: int) -> Detector:
    build = detection.ssdlite320_mobilenet_v3_large
    made = build(weights=None, weights_backbone=None, num_classes=n_classes + 1)
    pixels = {"image_mean": made.transform.image_mean, "image_std": made.transform.image_std}
    limits = {"nms_thresh": made.nms_thresh, "topk_candidates": made.topk_candidates}
    limits |= {"score_thresh": MIN_SCORE, "detections_per_img": MAX_FOUND}
    parts = (made.backbone, made.anchor_generator, (size, size), n_classes + 1)
    return TorchvisionDetector(_Ssd(*parts, head=made.head, **pixels, **limits), size, first_label=1)


def _faster_rcnn(name: str, n_classes: int, size: int) -> Detector:
    limits = {"box_score_thresh": MIN_SCORE, "box_detections_per_img": MAX_FOUND}
    sizes = {"min_size": size, "max_size": size}
    build = getattr(detection, name)
    network = build(weights=None, weights_backbone=None, num_classes=n_classes + 1, **limits, **sizes)
    return TorchvisionDetector(network, size, first_label=1)


TORCHVISION: dict[str, Callable[[int, int], Detector]] = {
    "fcos_small": _fcos_small,
    "ssdlite320_mobilenet_v3_large": _ssdlite,
    "fasterrcnn_mobilenet_v3_large_320_fpn": partial(_faster_rcnn, "fasterrcnn_mobilenet_v3_large_320_fpn"),
    "fasterrcnn_resnet50_fpn_v2": partial(_faster_rcnn, "fasterrcnn_resnet50_fpn_v2"),
}
"""Name -> takes the number of classes and the size of the images."""
TRANSFORMERS = ("rf_detr", "d_fine")
_HEAD = re.compile(r"(.*[._])?(bbox|class)_(embed|head)(\.\d+)?")
"""Where their heads for boxes and classes stand; some lie in a list of layers."""


def build(config: Mapping[str, Any]) -> Detector:
    """Return a freshly initialised detector.

    Args:
        config: `network`, `classes` (names), `image_size`; of a network of transformers also `transformers`, the
            content of its config.json, `mean` and `std`.
    """
    name, n_classes, size = config["network"], len(config["classes"]), int(config["image_size"])
    if name in TORCHVISION:
        return TORCHVISION[name](n_classes, size)
    network = _transformers(name, {**config["transformers"], "num_labels": n_classes})
    return TransformersDetector(network, size, config["mean"], config["std"])


def _transformers(name: str, config: Mapping[str, Any]) -> nn.Module:
    import transformers  # noqa: PLC0415 - seconds, and only where such a network is used

    kinds: dict[str, tuple[Any, Any]] = {
        "rf_detr": (transformers.RfDetrConfig, transformers.RfDetrForObjectDetection),
        "d_fine": (transformers.DFineConfig, transformers.DFineForObjectDetection),
    }
    config_kind, kind = kinds[name]
    network = cast(nn.Module, kind(config_kind.from_dict(dict(config))))
    if name == "d_fine":
        decoder = cast(Any, network).model.decoder
        decoder.integral = _Exact(decoder.integral)
    _answer_exactly(*(part for place, part in network.named_modules() if _HEAD.fullmatch(place)))
    return network
