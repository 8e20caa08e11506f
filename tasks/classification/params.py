"""Parameters of the classification pipeline, one model for each step, under the names users know."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from tasks.base.params import Device, Fraction, MaybePath, MaybeText, NoneText, Owner, Params, Seed
from tasks.training import params as training

Architecture = Literal[
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "vit_b_16",
    "vit_b_32",
    "vit_l_16",
    "vit_l_32",
    "swin_v2_t",
    "swin_v2_s",
    "swin_v2_b",
    "mobilenet_v3_large",
    "mobilenet_v3_small",
]
Part = Literal["train", "val", "test"]


class SplitParams(Params):
    """How a folder of classes becomes a training, a validation and a test part."""

    train_ratio: Annotated[float, Field(gt=0, lt=1, description="Share of each class to train on")] = 0.7
    val_ratio: Annotated[float, Field(gt=0, lt=1, description="Share to validate on; the rest is the test")] = 0.2
    seed: Seed = 0
    group_by: Annotated[
        MaybeText,
        Field(
            description="Keeps frames of one recording on one side: a regular expression on the file name (its first "
            "group, or the whole match, names the recording), or a CSV file with the columns path and group"
        ),
    ] = None
    max_bad_share: Annotated[
        Fraction, Field(description="The run fails when more than this share of the files cannot be used")
    ] = 0.01

    @model_validator(mode="after")
    def _leaves_a_test_part(self) -> Self:
        if self.train_ratio + self.val_ratio >= 1 - 1e-9:
            raise ValueError(
                f"train_ratio {self.train_ratio} + val_ratio {self.val_ratio} leaves no test part; need a sum below 1"
            )
        return self


class BlurParams(Params):
    """AdvancedBlur: a generalised Gaussian kernel, turned and noisy."""

    blur_limit: tuple[int, int] = (7, 13)
    sigma_limit: tuple[float, float] = (7, 13)
    rotate_limit: tuple[float, float] = (-90, 90)
    beta_limit: tuple[float, float] = (0.5, 8)
    noise_limit: tuple[float, float] = (2, 10)


class ClaheParams(Params):
    """CLAHE: contrast limited adaptive histogram equalisation."""

    clip_limit: Annotated[float, Field(ge=1)] = 3
    tile_grid_size: tuple[int, int] = (13, 13)


class ColorJitterParams(Params):
    """ColorJitter: brightness alone changes unless the others are opened."""

    brightness: tuple[float, float] = (0.5, 1.5)
    contrast: tuple[float, float] = (1, 1)
    saturation: tuple[float, float] = (1, 1)
    hue: tuple[float, float] = (0, 0)


class GaussNoiseParams(Params):
    """GaussNoise: variance on pixels of 0 to 255."""

    variance: tuple[float, float] = (100, 500)


class IsoNoiseParams(Params):
    """ISONoise: the colour noise of a camera sensor."""

    color_shift: tuple[float, float] = (0.01, 0.05)
    intensity: tuple[float, float] = (0.2, 0.5)


class SharpenParams(Params):
    """Sharpen: blended with the original by alpha."""

    alpha: tuple[float, float] = (0.2, 0.5)
    lightness: tuple[float, float] = (0.5, 1)


Method = Literal["AdvancedBlur", "CLAHE", "ColorJitter", "GaussNoise", "ISONoise", "Sharpen"]
ALL_METHODS: tuple[Method, ...] = (
    "AdvancedBlur",
    "CLAHE",
    "ColorJitter",
    "GaussNoise",
    "ISONoise",
    "Sharpen",
)


class AugmentParams(Params):
    """Which altered copies every image gets; the original stays."""

    enabled: bool = True
    methods: tuple[Method, ...] = ALL_METHODS
    parts: Annotated[tuple[Part, ...], Field(description="Parts that get copies; validating on them flatters")] = (
        "train",
    )
    seed: Seed = 0
    quality: Annotated[int, Field(ge=50, le=100, description="JPEG quality of the copies")] = 95
    n_workers: Annotated[int, Field(ge=0, description="0: every core; the result does not depend on it")] = 0
    AdvancedBlur: BlurParams = BlurParams()
    CLAHE: ClaheParams = ClaheParams()
    ColorJitter: ColorJitterParams = ColorJitterParams()
    GaussNoise: GaussNoiseParams = GaussNoiseParams()
    ISONoise: IsoNoiseParams = IsoNoiseParams()
    Sharpen: SharpenParams = SharpenParams()


def _size(value: object) -> object:
    """Take "(224, 224)" or [224, 224] for 224, as configurations in the wild write it."""
    if isinstance(value, str):
        numbers = [part.strip() for part in value.strip("()[] ").split(",") if part.strip()]
        value = numbers if len(numbers) > 1 else (numbers[0] if numbers else value)
    if isinstance(value, (list, tuple)):
        if len({str(v) for v in value}) != 1:
            raise ValueError(f"found the size {tuple(value)}, need a square one")
        return value[0]
    return value


def _class_names(value: object) -> object:
    """Take a map of names to numbers for a list, as configurations in the wild write it."""
    if isinstance(value, str):
        value = None if value.strip().lower() in {"", "none"} else [v.strip() for v in value.split(",")]
    if isinstance(value, dict):
        if sorted(value.values(), key=str) != sorted(range(len(value)), key=str):
            raise ValueError(f"found the numbers {list(value.values())}, need 0 to {len(value) - 1}, each once")
        value = sorted(value, key=value.__getitem__)
    return value


class TrainParams(training.TrainingParams):
    """What to fit, on what device, and for how long."""

    model: Architecture = "resnet18"
    num_classes: Annotated[
        # The bound belongs to the number alone: an explicit None, as a resumed run has it, must pass.
        Annotated[int, Field(ge=2)] | None,
        NoneText,
        Field(description="Checked against the classes found; empty: as found"),
    ] = None
    batch_size: Annotated[int, Field(ge=1)] = 8
    num_epochs: Annotated[int, Field(ge=1)] = 100
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    image_size: Annotated[int, Field(ge=32, description="Pixels on a side"), BeforeValidator(_size)] = 224
    device: Device = "cuda"
    train_path: Annotated[MaybePath, Field(description="Class folders to train on, when the data is already split")] = (
        None
    )
    val_path: Annotated[MaybePath, Field(description="Class folders to validate on; goes with train_path")] = None
    test_path: Annotated[MaybePath, Field(description="Class folders to grade on; empty: val_path")] = None
    save_path: Annotated[
        MaybePath, Field(description="A folder that gets a copy of weights, configuration and metrics")
    ] = None
    class_names: Annotated[
        tuple[str, ...] | None,
        BeforeValidator(_class_names),
        Field(description="The classes in the order of the head: a list, or a map of names to numbers; empty: sorted"),
    ] = None
    weight_path: Annotated[MaybePath, Field(description="Start from these weights: a state dict, RFUAV's included")] = (
        None
    )
    pretrained: Annotated[bool, Field(description="Start from torchvision's ImageNet weights")] = True
    shuffle: bool = True
    task_id: Annotated[MaybeText, Field(description="The caller's own name for the run")] = None
    description: Annotated[MaybeText, Field(description="Free text, kept with the run")] = None

    optimizer: training.Optimizer = "adam"
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    schedule: training.Schedule = "none"
    warmup_epochs: training.WarmupEpochs = 0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    class_weights: Annotated[
        Literal["none", "balanced"], Field(description="balanced: a rare class weighs more in the loss")
    ] = "none"
    mixup: Annotated[float, Field(ge=0, description="Alpha of the Beta distribution; 0: off")] = 0.0
    ema_decay: training.EmaDecay = 0.0
    clip_grad_norm: training.ClipGradNorm = 0.0
    accumulate: Annotated[int, Field(ge=1, description="Batches per optimiser step")] = 1
    precision: training.WantedPrecision = "auto"
    compile: Annotated[bool, Field(description="torch.compile: slow to start, faster for long runs")] = False
    patience: training.Patience = 0
    horizontal_flip: Annotated[bool, Field(description="Mirror half of the images; not for spectrograms")] = False
    n_workers: Annotated[int, Field(ge=0, description="Threads that load images; 0: as many as cores")] = 0
    keep_every_epoch: Annotated[bool, Field(description="Keep the weights of every epoch in MLflow")] = False

    @property
    def n_kept(self) -> int:
        """How many epochs there are whose weights are kept."""
        return self.num_epochs if self.keep_every_epoch else 0

    @model_validator(mode="after")
    def _paths_come_together(self) -> Self:
        if (self.train_path is None) != (self.val_path is None):
            raise ValueError("found one of train_path and val_path, need both or neither")
        if self.test_path is not None and self.train_path is None:
            raise ValueError("found test_path without train_path and val_path, need all three")
        return self

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.model.startswith("vit") and self.image_size % (patch := int(self.model.rsplit("_", 1)[1])):
            raise ValueError(f"image_size {self.image_size} does not fit {self.model}: need a multiple of {patch}")
        if self.n_processes > 1 and self.compile:
            raise ValueError(f"compile works on one device, found {self.n_processes}")
        return self

    def parts(self) -> dict[Part, Path] | None:
        """Return the folders of data that is already split, or None when the parameters name none."""
        if self.train_path is None or self.val_path is None:
            return None
        parts: dict[Part, Path] = {"train": self.train_path, "val": self.val_path}
        if self.test_path is not None:
            parts["test"] = self.test_path
        return parts


FREE_TO_CHANGE = training.FREE_TO_CHANGE | {"keep_every_epoch", "task_id", "description"}


class EvaluateParams(Params):
    """How the test part is graded, and when a better model takes over."""

    n_worst: Annotated[int, Field(ge=0, description="Worst mistakes shown in the gallery")] = 24
    n_bins: Annotated[int, Field(ge=2, description="Bins of the calibration error")] = 15
    register_model: Annotated[bool, Field(description="Register the model in MLflow")] = True
    class_margin: Annotated[
        Fraction, Field(description="A new champion's recall may fall by no more than this in any class")
    ] = 0.05
    confidence: training.Confidence = 0.95


class TrackParams(Params):
    """Under which names the run is found again."""

    experiment: Annotated[
        str,
        # MLflow takes no slash or colon in the name of a model, its search no quote: said now, not after the training.
        Field(pattern=r"^[^/:']+$", description="MLflow experiment, and name of the model"),
    ] = "classification"
    run_name: Annotated[MaybeText, Field(description="Empty: model, classes and time")] = None
    owner: Owner = ""


DataSource = Path | dict[Part, Path]
"""A folder of class folders or of parts, or the folder of each part by its name."""


def data_source(data: Path | None, train: TrainParams) -> DataSource:
    """Return where the images are: the folder given, or the folders that the training parameters name.

    Raises:
        ValueError: neither, or both.
    """
    parts = train.parts()
    if data is not None and parts is not None:
        raise ValueError(f"found data={data} and train.train_path={train.train_path}, need one of them")
    if data is not None:
        return data
    if parts is None:
        raise ValueError("found no data: need data (a folder of class folders), or train.train_path and train.val_path")
    return parts
