"""Parameters of the recognition of parts, one model for each step."""

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from tasks.base.params import Device, Fraction, MaybePath, MaybeText, Owner, Params, Seed
from tasks.training import params as training

Material = Literal["metal", "plastic", "painted"]


class RenderParams(Params):
    """How meshes become images of single parts (views) and of several on a plane (scenes)."""

    seed: Seed = 0
    view_size: Annotated[int, Field(ge=32, le=1024, description="Side of a view, pixels")] = 128
    train_views: Annotated[int, Field(ge=0, le=20_000, description="Views of each part to train on")] = 1400
    val_views: Annotated[int, Field(ge=0, le=5_000, description="Views of each part to validate on")] = 60
    test_views: Annotated[int, Field(ge=0, le=5_000, description="Views of each part to test with")] = 60
    distractor_views: Annotated[
        int, Field(ge=0, le=5_000, description="Views of each shape that is no part, to learn what unknown means")
    ] = 16
    scene_size: Annotated[int, Field(ge=64, le=2048, description="Side of a scene, pixels")] = 320
    train_scenes: Annotated[int, Field(ge=0, le=200_000, description="Scenes to train on")] = 600
    val_scenes: Annotated[int, Field(ge=0, le=20_000, description="Scenes to validate on")] = 100
    test_scenes: Annotated[int, Field(ge=0, le=20_000, description="Scenes to test with")] = 100
    min_parts: Annotated[int, Field(ge=1, le=50, description="Parts in a scene, at least")] = 2
    max_parts: Annotated[int, Field(ge=1, le=50, description="Parts in a scene, at most")] = 6
    max_clutter: Annotated[int, Field(ge=0, le=50, description="Shapes in a scene that are no part, at most")] = 3
    min_visible: Annotated[
        Fraction,
        Field(description="A part of which less is seen counts as a crowd: neither trained on nor graded"),
    ] = 0.25
    materials: Annotated[tuple[Material, ...], Field(min_length=1, description="What parts are made of")] = (
        "metal",
        "plastic",
        "painted",
    )
    backgrounds: Annotated[
        MaybePath, Field(description="A folder of images to lie under and behind parts in half of the images")
    ] = None
    distractors: Annotated[
        MaybePath, Field(description="A folder of meshes that are no parts; none: shapes are made up")
    ] = None
    n_distractors: Annotated[int, Field(ge=0, le=1000, description="Shapes made up, where no folder is given")] = 320
    min_quality: Annotated[int, Field(ge=1, le=100, description="JPEG quality, at least")] = 60
    max_quality: Annotated[int, Field(ge=1, le=100, description="JPEG quality, at most")] = 95
    blur: Annotated[float, Field(ge=0, le=10, description="Largest blur, pixels at a side of 256")] = 1.3
    noise: Annotated[float, Field(ge=0, le=64, description="Largest noise of the sensor, grey levels of 255")] = 7.0
    n_workers: Annotated[int, Field(ge=0, le=256, description="Threads; 0 for one per core")] = 0

    @model_validator(mode="after")
    def _ranges_are_in_order(self) -> Self:
        for low, high in (("min_parts", "max_parts"), ("min_quality", "max_quality")):
            if getattr(self, low) > getattr(self, high):
                raise ValueError(f"{low} {getattr(self, low)} is above {high} {getattr(self, high)}")
        return self


Network = Literal[
    "fcos_small",
    "ssdlite320_mobilenet_v3_large",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "fasterrcnn_resnet50_fpn_v2",
    "rf_detr",
    "d_fine",
]


_Loaders = Annotated[int, Field(ge=0, le=1024, description="Threads that load images; 0: as many as cores")]


class DetectorParams(training.TrainingParams):
    """Which network finds the parts, what it is trained on, and when it takes over."""

    network: Annotated[
        Network,
        Field(description="fcos_small: made for training on a CPU; rf_detr and d_fine need transformers and a GPU"),
    ] = "fcos_small"
    network_folder: Annotated[
        MaybePath,
        Field(
            description="Of rf_detr and d_fine: a folder of transformers with config.json and model.safetensors to "
            "start from; empty: its plain configuration and random weights"
        ),
    ] = None
    weight_path: Annotated[
        MaybePath,
        Field(
            description="Start from these weights: a state dict of the network, as torchvision's of COCO, or of its "
            "backbone; empty: random"
        ),
    ] = None
    image_size: Annotated[int, Field(ge=64, le=2048, multiple_of=32, description="Pixels on a side")] = 320
    device: Device = "cuda"

    num_epochs: Annotated[int, Field(ge=1, le=10_000)] = 40
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 16
    optimizer: training.Optimizer = "adamw"
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 2e-3
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.01
    schedule: training.Schedule = "cosine"
    warmup_epochs: training.WarmupEpochs = 0.5
    ema_decay: training.EmaDecay = 0.99
    clip_grad_norm: training.ClipGradNorm = 5.0
    window: Annotated[
        int,
        Field(
            ge=0,
            le=2048,
            multiple_of=32,
            description="Of fcos_small and faster R-CNN: trained on are windows of so many pixels around parts, not "
            "bare ground, but for the last fifth of the epochs; 0: whole scenes",
        ),
    ] = 192
    scale_jitter: Annotated[Fraction, Field(description="By how much scenes are enlarged or shrunk")] = 0.3
    color_jitter: Annotated[Fraction, Field(description="Spread of brightness and tint")] = 0.3
    mosaic: Annotated[Fraction, Field(description="Share of the images that are put together of four scenes")] = 0.0
    horizontal_flip: Annotated[
        bool, Field(description="Mirror half of the scenes; not where a part's mirror image is another part")
    ] = False
    n_workers: _Loaders = 0

    real_images: Annotated[
        MaybePath,
        Field(
            description="A folder of annotated photographs: COCO JSON, or YOLO's text files with data.yaml or "
            "classes.txt; names are those of the parts"
        ),
    ] = None
    real_use: Annotated[
        Literal["train", "evaluate"],
        Field(description="train: its training part is trained on too, its test part graded; evaluate: all are graded"),
    ] = "evaluate"
    n_worst: Annotated[int, Field(ge=0, le=1000, description="Worst images shown in the gallery")] = 12
    check_onnx: Annotated[bool, Field(description="Export the detector as ONNX and compare it on 50 images")] = True
    register_model: Annotated[bool, Field(description="Register the detector in MLflow")] = True
    class_margin: Annotated[
        Fraction, Field(description="A new champion's recall may fall by no more than this for any part")
    ] = 0.05
    confidence: training.Confidence = 0.95

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.network_folder is not None and self.network not in ("rf_detr", "d_fine"):
            raise ValueError(f"found network_folder for {self.network}, need rf_detr or d_fine")
        return self

    @property
    def trained_window(self) -> int:
        """Return how many pixels a side of what is trained on has; 0: a whole scene's.

        The anchors of SSD grow with the image, and the queries of the others look at all of it.
        """
        return self.window if self.network.startswith(("fcos", "fasterrcnn")) else 0


_OF_THE_REPORT = {"n_worst", "register_model", "class_margin", "confidence"}
DETECTOR_FREE_TO_CHANGE = training.FREE_TO_CHANGE | _OF_THE_REPORT | {"check_onnx"}
INDEX_FREE_TO_CHANGE = training.FREE_TO_CHANGE | _OF_THE_REPORT | {"ivf_above", "n_nearest", "known_lost"}


_GROWTH = 0.6
"""Share of the epochs after which images have their full size."""
Backbone = Literal["small", "resnet18", "mobilenet_v3_small", "mobilenet_v3_large"]


class IndexParams(training.TrainingParams):
    """How views of parts become vectors, and how near a vector must be to one of them."""

    backbone: Annotated[
        Backbone, Field(description="small: a network of this project's, made for training on a CPU")
    ] = "small"
    backbone_folder: Annotated[
        MaybePath,
        Field(
            description="A folder of a model of transformers, such as DINOv2: config.json and model.safetensors. Its "
            "features are taken as they are, nothing is trained"
        ),
    ] = None
    train: Annotated[bool, Field(description="False: the backbone's features as they are, nothing is trained")] = True
    weight_path: Annotated[MaybePath, Field(description="Start from these weights: a state dict of the backbone")] = (
        None
    )
    pretrained: Annotated[bool, Field(description="Start from torchvision's ImageNet weights")] = False
    dimension: Annotated[int, Field(ge=8, le=2048, description="Of the vectors, where they are trained")] = 128
    image_size: Annotated[int, Field(ge=32, le=1024, description="Pixels on a side of what the network sees")] = 96
    start_size: Annotated[
        int,
        Field(
            ge=0,
            le=1024,
            description="Pixels on a side in the first epochs; grows to image_size over three of five epochs, which "
            "saves a third of the work; 0: image_size throughout",
        ),
    ] = 64
    device: Device = "cuda"

    num_epochs: Annotated[int, Field(ge=1, le=10_000)] = 22
    batch_size: Annotated[int, Field(ge=2, le=65_536)] = 64
    optimizer: training.Optimizer = "adamw"
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 2.8e-3
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.05
    schedule: training.Schedule = "cosine"
    warmup_epochs: training.WarmupEpochs = 1
    loss: Annotated[
        Literal["softmax", "cosface", "arcface"],
        Field(description="Over the parts and the shapes that are none: softmax of cosines, with a margin or without"),
    ] = "cosface"
    margin: Annotated[float, Field(ge=0, le=1, description="Of the loss: a cosine, or radians for arcface")] = 0.2
    scale: Annotated[float, Field(gt=0, le=256, description="By which cosines are multiplied in the loss")] = 16
    ema_decay: training.EmaDecay = 0.98
    clip_grad_norm: training.ClipGradNorm = 5.0
    crop_jitter: Annotated[
        Fraction, Field(description="By how much a box is off in place and size, as a share of its side")
    ] = 0.1
    turn_deg: Annotated[float, Field(ge=0, le=180, description="By how much images are turned in their plane")] = 180
    color_jitter: Annotated[Fraction, Field(description="Spread of brightness, contrast and tint")] = 0.15
    blur: Annotated[Fraction, Field(description="Share of the images that are blurred")] = 0.1
    occlusion: Annotated[Fraction, Field(description="Share of the images of which a part is hidden")] = 0.05
    quarter_turns: Annotated[
        bool,
        Field(description="A vector is the mean over an image and its three quarter turns: surer, four times the work"),
    ] = True
    n_workers: _Loaders = 0

    ivf_above: Annotated[
        int, Field(ge=1000, description="More views than this are searched in cells (FAISS IVF), fewer one by one")
    ] = 100_000
    n_nearest: Annotated[int, Field(ge=1, le=100, description="Nearest views given with an answer")] = 5
    known_lost: Annotated[
        float,
        Field(gt=0, lt=0.5, description="Share of held-out views of known parts that the threshold may refuse"),
    ] = 0.04
    n_worst: Annotated[int, Field(ge=0, le=1000, description="Worst mistakes shown in the gallery")] = 24
    register_model: Annotated[bool, Field(description="Register the index in MLflow")] = True
    class_margin: Annotated[
        Fraction, Field(description="A new champion's recall may fall by no more than this in any part")
    ] = 0.05
    confidence: training.Confidence = 0.95

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.weight_path is not None and self.pretrained:
            raise ValueError("found weight_path and pretrained, need one of them")
        if not self.trains and self.backbone == "small" and self.backbone_folder is None and self.weight_path is None:
            raise ValueError(
                "found train false for a network without weights: need backbone_folder, weight_path or pretrained"
            )
        if not self.trains and self.n_processes > 1:
            raise ValueError(f"found {self.n_processes} devices where nothing is trained, need one")
        return self

    def side_in(self, epoch: int) -> int:
        """Return the side, pixels, of the images of an epoch (from 1)."""
        if not 0 < self.start_size < self.image_size:
            return self.image_size
        share = min(1.0, (epoch - 1) / (_GROWTH * self.num_epochs))
        return min(self.image_size, self.start_size + int(share * (self.image_size - self.start_size)) // 8 * 8)

    @property
    def trains(self) -> bool:
        """Return whether anything is trained."""
        return self.train and self.backbone_folder is None


_OLD_NAMES = {"yolo": "detector", "faiss": "index"}


def _methods(value: object) -> object:
    """Take names for switches: `detector,index`, a list of them, and what the service before called them."""
    if isinstance(value, str):
        value = [name.strip() for name in value.split(",") if name.strip()]
    if isinstance(value, (list, tuple)):
        names = [_OLD_NAMES.get(str(name).lower(), str(name).lower()) for name in value]
        if unknown := sorted({*names} - {*_OLD_NAMES.values()}):
            raise ValueError(f"found the method(s) {', '.join(unknown)}, need detector (yolo) or index (faiss)")
        return {name: name in names for name in _OLD_NAMES.values()}
    if isinstance(value, dict):
        return {_OLD_NAMES.get(key, key): switch for key, switch in value.items()}
    return value


class MethodParams(Params):
    """What is trained: a detector that finds parts, an index that tells them apart; one after the other."""

    detector: Annotated[bool, Field(description="Finds the parts in an image")] = True
    index: Annotated[bool, Field(description="Says which part an image shows, and which it has never seen")] = True

    @model_validator(mode="after")
    def _is_something(self) -> Self:
        if not self.detector and not self.index:
            raise ValueError("found neither detector nor index, need at least one")
        return self

    def needed(self, render: RenderParams) -> RenderParams:
        """Return what is to be rendered: no views where there is no index, no scenes where there is no detector."""
        views = () if self.index else ("train_views", "val_views", "test_views", "distractor_views")
        scenes = () if self.detector else ("train_scenes", "val_scenes", "test_scenes")
        return render.model_copy(update=dict.fromkeys((*views, *scenes), 0))


Methods = Annotated[MethodParams, BeforeValidator(_methods)]
"""Also as names: `[detector, index]`, or `[yolo, faiss]` as the service before had them."""


class RecognitionTrackParams(Params):
    """Under which names the runs are found again."""

    experiment: Annotated[
        str,
        Field(
            pattern=r"^[^/:']+$",
            description="MLflow experiment; the models are called after it, with -detector and -index",
        ),
    ] = "recognition"
    run_name: Annotated[MaybeText, Field(description="Empty: the folder of the parts")] = None
    owner: Owner = ""


class AddParams(Params):
    """How parts are added to an index that was made before."""

    device: Device = "cuda"
    n_views: Annotated[
        int, Field(ge=5, le=20_000, description="Views rendered of each part; of each five one is held out")
    ] = 120
    replace: Annotated[
        bool, Field(description="A part that the index knows by that name is replaced; off: it is refused")
    ] = False
    promote: Annotated[bool, Field(description="The larger index takes the place of the champion it was made of")] = (
        True
    )
    n_workers: Annotated[int, Field(ge=0, le=1024, description="Threads that render; 0: as many as cores")] = 0
    seed: Seed = 0
