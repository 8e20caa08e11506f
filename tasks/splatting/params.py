"""Parameters of the splatting pipeline, one model for each step, under gsplat's names."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tasks.base.params import Fraction, NoneText, Owner, Params, Seed
from tasks.training.params import DeviceParams

CameraModel = Literal["OPENCV", "SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV_FISHEYE"]
Preset = Literal["quick", "normal", "full"]

_BY_PRESET = "empty: as the preset says"


class FramesParams(Params):
    """Which images are taken from a video, or from a folder of photographs."""

    n_frames: Annotated[int, Field(ge=3, le=5000, description="Images to take, evenly spaced in time")] = 100
    frames_per_second: Annotated[
        float | None, Field(gt=0, le=240, description="Takes this many a second instead of n_frames"), NoneText
    ] = None
    max_side: Annotated[int, Field(ge=64, le=8192, description="Longest side of an image, pixels")] = 1600
    sharpest: Annotated[bool, Field(description="Take the sharpest image of each window, not its middle one")] = True
    drop_duplicates: Annotated[bool, Field(description="Leave out images that show what the one before shows")] = True


class PosesParams(Params):
    """How cameras are found, and when they are good enough to train on."""

    camera_model: Annotated[CameraModel, Field(description="Lens model of COLMAP; one camera for all images")] = (
        "OPENCV"
    )
    matching: Annotated[
        Literal["auto", "sequential", "exhaustive"],
        Field(description="auto: sequential for videos and for more than 80 photographs, else exhaustive"),
    ] = "auto"
    max_side: Annotated[int, Field(ge=64, le=8192, description="Longest side features are looked for on, pixels")] = 640
    max_features: Annotated[int, Field(ge=128, le=65536, description="SIFT features per image")] = 4096
    min_registered: Annotated[int, Field(ge=3, description="Fails below this many images with a pose")] = 10
    min_registered_share: Annotated[Fraction, Field(description="Fails below this share of images with a pose")] = 0.5
    seed: Seed = 0
    num_threads: Annotated[int | None, Field(ge=1, description="CPU threads; empty: all"), NoneText] = None


class SplatParams(DeviceParams):
    """How the Gaussians are fitted. Fields that are empty take the value of the preset for the device."""

    device: Annotated[
        str, Field(description="cuda: the least loaded GPU; cuda:1: this one; cpu; HOST/cuda:1: on that host")
    ] = "cuda"
    batch_size: Annotated[
        int,
        Field(
            ge=1,
            le=64,
            description="Images of a step, n_devices share them; a preset takes so many times fewer steps, and every "
            "learning rate is multiplied by the square root",
        ),
    ] = 1
    preset: Annotated[Preset, Field(description="quick: a look; normal: a good result; full: the best")] = "normal"
    seed: Seed = 0
    max_steps: Annotated[int | None, Field(ge=1, le=1_000_000, description=f"Steps; {_BY_PRESET}"), NoneText] = None
    max_side: Annotated[
        int | None, Field(ge=32, le=8192, description=f"Longest side to train at, pixels; {_BY_PRESET}"), NoneText
    ] = None
    test_every: Annotated[int, Field(ge=0, description="Every n-th image is held out to measure on; 0: none")] = 8
    eval_every: Annotated[
        int | None, Field(ge=1, description=f"Steps between two measurements; {_BY_PRESET}"), NoneText
    ] = None
    min_psnr: Annotated[float, Field(ge=0, description="Held-out PSNR below which the result is flagged, dB")] = 20.0

    strategy: Annotated[Literal["mcmc", "default"], Field(description="How Gaussians come and go")] = "mcmc"
    cap_max: Annotated[
        int | None, Field(ge=100, le=20_000_000, description=f"Most Gaussians; {_BY_PRESET}"), NoneText
    ] = None
    noise_lr: Annotated[
        float | None, Field(ge=0, description=f"mcmc: scale of the noise on means; {_BY_PRESET}"), NoneText
    ] = None
    min_opacity: Annotated[float, Field(gt=0, lt=1, description="mcmc: Gaussians below are moved elsewhere")] = 0.005
    prune_opa: Annotated[float, Field(gt=0, lt=1, description="default: Gaussians below are removed")] = 0.005
    grow_grad2d: Annotated[float, Field(gt=0, description="default: gradient of means2d that makes one grow")] = 0.0002
    grow_scale3d: Annotated[float, Field(gt=0, description="default: split above, clone below, share of scene")] = 0.01
    prune_scale3d: Annotated[float, Field(gt=0, description="default: removed above, share of scene")] = 0.1
    reset_every: Annotated[int, Field(ge=1, description="default: images between two resets of opacity")] = 3000
    refine_start: Annotated[int | None, Field(ge=0, description=f"First refinement; {_BY_PRESET}"), NoneText] = None
    refine_stop: Annotated[int | None, Field(ge=0, description=f"Last refinement; {_BY_PRESET}"), NoneText] = None
    refine_every: Annotated[int, Field(ge=1, description="Images between two refinements")] = 100

    sh_degree: Annotated[int | None, Field(ge=0, le=3, description=f"Spherical harmonics; {_BY_PRESET}"), NoneText] = (
        None
    )
    sh_degree_interval: Annotated[
        int | None, Field(ge=1, description=f"Steps until the next degree joins; {_BY_PRESET}"), NoneText
    ] = None
    init_type: Annotated[
        Literal["sfm", "random"], Field(description="Start from the points of COLMAP, or anywhere")
    ] = "sfm"
    init_num_pts: Annotated[int, Field(ge=10, description="random: how many")] = 10_000
    init_extent: Annotated[float, Field(gt=0, description="random: cube's half side, in camera distances")] = 3.0
    init_opa: Annotated[
        float | None, Field(gt=0, lt=1, description="Opacity at the start; empty: as the strategy wants it"), NoneText
    ] = None
    init_scale: Annotated[
        float | None, Field(gt=0, description=f"Size at the start by distance; {_BY_PRESET}"), NoneText
    ] = None

    means_lr: Annotated[float | None, Field(gt=0, description=f"By scene size; {_BY_PRESET}"), NoneText] = None
    scales_lr: Annotated[float | None, Field(gt=0, description=_BY_PRESET), NoneText] = None
    opacities_lr: Annotated[float | None, Field(gt=0, description=_BY_PRESET), NoneText] = None
    quats_lr: Annotated[float | None, Field(gt=0, description=_BY_PRESET), NoneText] = None
    sh0_lr: Annotated[float | None, Field(gt=0, description=_BY_PRESET), NoneText] = None
    shN_lr: Annotated[float | None, Field(gt=0, description=_BY_PRESET), NoneText] = None
    ssim_lambda: Annotated[Fraction, Field(description="Weight of 1 - SSIM; the rest is L1")] = 0.2
    opacity_reg: Annotated[
        float | None, Field(ge=0, description="Weight of the mean opacity; empty: as the strategy"), NoneText
    ] = None
    scale_reg: Annotated[
        float | None, Field(ge=0, description="Weight of the mean scale; empty: as the strategy"), NoneText
    ] = None
    antialiased: Annotated[bool, Field(description="Opacity follows the blur, so that far views do not swell")] = False
    random_bkgd: Annotated[bool, Field(description="Another background each step: nothing hides in its colour")] = False
    exposure_opt: Annotated[bool, Field(description="Fit gain and offset per image, for changing exposure")] = False
    exposure_lr: Annotated[float, Field(gt=0)] = 1e-3
    pose_opt: Annotated[bool, Field(description="Refine the cameras as well")] = False
    pose_opt_lr: Annotated[float, Field(gt=0)] = 1e-5
    pose_opt_reg: Annotated[float, Field(ge=0, description="Weight decay of the corrections")] = 1e-6
    near_plane: Annotated[float, Field(gt=0, description="Nearer Gaussians are not drawn, world units")] = 0.01
    num_threads: Annotated[int | None, Field(ge=1, description="CPU threads; empty: all"), NoneText] = None


# On another kind of device the metrics differ in their last digits, as those of any two GPUs do; on the CPU they are
# the same bit for bit.
FREE_TO_CHANGE = frozenset({"device", "n_devices", "n_hosts", "num_threads", "min_psnr"})
"""Parameters of a fit that may change between a crash and the resumption without changing what the fit is of."""


class ExportParams(Params):
    """Which files a splat is handed on as; the PLY is always written."""

    spz: bool = True
    gltf: Annotated[bool, Field(description="glTF with KHR_gaussian_splatting")] = True
    viewer: Annotated[bool, Field(description="One HTML page with everything inside")] = True
    turntable: Annotated[bool, Field(description="A video around the scene")] = True
    camera_path: Annotated[bool, Field(description="A video along the cameras")] = True
    depth_maps: bool = True
    seconds: Annotated[float, Field(gt=0, le=120, description="Length of each video")] = 6.0
    fps: Annotated[int, Field(ge=1, le=60)] = 24
    max_side: Annotated[int, Field(ge=32, le=4096, description="Longest side of videos and depth maps, pixels")] = 640


class SplatTrackParams(Params):
    """Under which names a training is found in MLflow."""

    experiment: str = "splatting"
    run_name: Annotated[str | None, NoneText] = None
    owner: Owner = ""

    @model_validator(mode="after")
    def _named(self) -> Self:
        if not self.experiment.strip():
            raise ValueError("experiment is empty; need a name")
        return self
