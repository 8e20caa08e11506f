"""Parameters of spectrograms, noise and crops."""

from difflib import get_close_matches
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from tasks.base.params import Fraction, MaybePath, Params, Seed

Datatype = Literal["cf32_le", "cf32_be", "ci16_le", "ci16_be", "ci8", "cu8"]
"""How one sample is stored, in the words of SigMF: I then Q, each a float32, int16, int8 or uint8."""

Window = Literal["hamming", "hann", "blackman", "boxcar"]

COLOUR_MAPS: frozenset[str] = frozenset(
    """Accent Blues BrBG BuGn BuPu CMRmap Dark2 GnBu Grays Greens Greys OrRd Oranges PRGn Paired Pastel1 Pastel2 PiYG
    PuBu PuBuGn PuOr PuRd Purples RdBu RdGy RdPu RdYlBu RdYlGn Reds Set1 Set2 Set3 Spectral Wistia YlGn YlGnBu YlOrBr
    YlOrRd afmhot autumn berlin binary bone brg bwr cividis cool coolwarm copper cubehelix flag gist_earth gist_gray
    gist_grey gist_heat gist_ncar gist_rainbow gist_stern gist_yarg gist_yerg gnuplot gnuplot2 gray grey hot hsv inferno
    jet magma managua nipy_spectral ocean okabe_ito parula pink plasma prism rainbow seismic spring summer tab10 tab20
    tab20b tab20c terrain turbo twilight twilight_shifted vanimo viridis winter""".split()
)
"""matplotlib's names, and parula, which is MATLAB's; each may end with _r: the same backwards."""


def _known_colour_map(name: str) -> str:
    if name.removesuffix("_r") not in COLOUR_MAPS:
        close = get_close_matches(name, COLOUR_MAPS, n=3) or ["jet", "hot", "parula", "viridis"]
        raise ValueError(f"found the colour map {name!r}, need one of matplotlib's or parula, such as {close}")
    return name


class SpectrogramParams(Params):
    """How a recording is cut into frames and how a frame becomes an image.

    The defaults are those of the RFUAV data set. Source: RFUAV graphic/RawDataProcessor.py and its published
    images (1800 x 1200).
    """

    sample_rate_hz: Annotated[
        float, Field(gt=0, description="Complex samples per second; SigMF metadata beside the file comes first")
    ] = 100e6
    datatype: Annotated[
        Literal["auto"] | Datatype,
        Field(description="auto: SigMF metadata, else the file's suffix (.cs16, .cs8, .cu8), else float32"),
    ] = "auto"
    frame_s: Annotated[float, Field(gt=0, description="Time shown by one image, seconds")] = 0.1
    hop_s: Annotated[
        float | None, Field(gt=0, description="Seconds from one image's start to the next; empty: frame_s")
    ] = None
    n_fft: Annotated[int, Field(ge=16, le=65536, description="Points of the transform, 1024 or 2048 as a rule")] = 1024
    window: Annotated[Window, Field(description="Taper of each transform, symmetric as in RFUAV's code")] = "hamming"
    overlap: Annotated[float, Field(ge=0, le=0.95, description="Share of a transform shared with the next")] = 0.5
    two_sided: Annotated[
        bool, Field(description="Negative frequencies too; off: the I part alone, 0 to half the rate")
    ] = True
    db_range: Annotated[
        tuple[float, float] | None,
        Field(description="dB at the ends of the colour map (0: a full-scale tone); empty: from the percentiles"),
    ] = None
    percentiles: Annotated[
        tuple[float, float],
        Field(description="Percentiles of each image at the ends of the colour map; 0 and 100: its extremes"),
    ] = (1.0, 99.9)
    colour_map: Annotated[
        str, AfterValidator(_known_colour_map), Field(description="matplotlib's by name; parula is OpenCV's")
    ] = "jet"
    drawing: Annotated[
        Literal["fast", "matplotlib"],
        Field(description="matplotlib: its imshow, pixel for pixel, for weights trained on such images; slower"),
    ] = "fast"
    width: Annotated[int, Field(ge=16, le=20000, description="Pixels along time")] = 1800
    height: Annotated[int, Field(ge=16, le=20000, description="Pixels along frequency")] = 1200
    quality: Annotated[int, Field(ge=50, le=100, description="JPEG quality")] = 95

    @property
    def frame_samples(self) -> int:
        """Complex samples in one image."""
        return round(self.frame_s * self.sample_rate_hz)

    @property
    def hop_samples(self) -> int:
        """Complex samples from one image's start to the next, at least 1."""
        return max(1, round((self.hop_s or self.frame_s) * self.sample_rate_hz))

    @property
    def step(self) -> int:
        """Samples from one transform to the next, at least 1."""
        return max(1, round(self.n_fft * (1 - self.overlap)))

    @model_validator(mode="after")
    def _makes_an_image(self) -> Self:
        if self.frame_samples < self.n_fft:
            raise ValueError(
                f"frame_s {self.frame_s} at {self.sample_rate_hz:g} Hz is {self.frame_samples} samples; "
                f"need at least n_fft {self.n_fft}"
            )
        if self.db_range is not None and self.db_range[0] >= self.db_range[1]:
            raise ValueError(f"found db_range {self.db_range}, need the lower end first")
        low, high = self.percentiles
        if not 0 <= low < high <= 100:
            raise ValueError(f"found percentiles {self.percentiles}, need 0 <= low < high <= 100")
        return self


class MixParams(Params):
    """How clean recordings are mixed with noise; the recipe is written down in docs/signals.md."""

    snrs_db: Annotated[tuple[float, ...], Field(min_length=1, description="Signal-to-noise ratios, dB")] = tuple(
        range(-20, 21, 2)
    )
    noise: Annotated[
        MaybePath, Field(description="A recording, or a folder of them, that is mixed in; empty: white Gaussian noise")
    ] = None
    recorded_share: Annotated[
        Fraction, Field(description="Share of the noise power from the recordings in `noise`; the rest is white")
    ] = 1.0
    power_over: Annotated[
        Literal["active", "all"],
        Field(description="Signal power over the stretches where it is being sent, or over the whole frame"),
    ] = "active"
    bandwidth: Annotated[
        Literal["full", "occupied"],
        Field(description="Noise counted in the whole sample rate, or where 99 % of the signal's power lies"),
    ] = "full"
    bandwidth_hz: Annotated[
        float | None, Field(gt=0, description="Noise counted in so many Hz; replaces `bandwidth`")
    ] = None
    max_frames: Annotated[
        int | None, Field(ge=1, description="Frames taken of each recording, from its start; empty: all")
    ] = None
    seed: Seed = 0

    @model_validator(mode="after")
    def _names_every_snr_once(self) -> Self:
        if len(set(self.snrs_db)) != len(self.snrs_db):
            raise ValueError(f"found snrs_db {list(self.snrs_db)}, need each once")
        return self


class CropParams(Params):
    """The box that is cut out of every image."""

    x: Annotated[int, Field(ge=0, description="Left edge, pixels from the left of the image as it is seen")] = 0
    y: Annotated[int, Field(ge=0, description="Upper edge, pixels from the top")] = 0
    width: Annotated[int, Field(ge=1, description="Pixels")]
    height: Annotated[int, Field(ge=1, description="Pixels")]
