"""Parameters of the step that turns raw radio recordings into spectrogram pictures."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tasks.params import Params

ColourMap = Literal["jet", "hot", "parula", "hsv", "autumn", "viridis", "turbo", "inferno", "magma", "plasma", "gray"]
Window = Literal["hamming", "hann", "blackman", "boxcar"]


class SpectrogramParams(Params):
    """How a recording is cut into frames and how a frame becomes a picture.

    The defaults are those of the RFUAV data set. Source: RFUAV graphic/RawDataProcessor.py and its published
    pictures (1800 x 1200).
    """

    sample_rate_hz: Annotated[float, Field(gt=0, description="Complex samples per second")] = 100e6
    frame_s: Annotated[float, Field(gt=0, description="Time shown by one picture, seconds")] = 0.1
    hop_s: Annotated[
        float | None, Field(gt=0, description="Seconds from one picture's start to the next; empty: frame_s")
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
        Field(description="Percentiles of each picture at the ends of the colour map; 0 and 100: its extremes"),
    ] = (1.0, 99.9)
    colour_map: Annotated[ColourMap, Field(description="matplotlib's tables; parula is OpenCV's")] = "jet"
    width: Annotated[int, Field(ge=16, le=20000, description="Pixels along time")] = 1800
    height: Annotated[int, Field(ge=16, le=20000, description="Pixels along frequency")] = 1200
    quality: Annotated[int, Field(ge=50, le=100, description="JPEG quality")] = 95

    @property
    def frame_samples(self) -> int:
        """Complex samples in one picture."""
        return round(self.frame_s * self.sample_rate_hz)

    @property
    def hop_samples(self) -> int:
        """Complex samples from one picture's start to the next, at least 1."""
        return max(1, round((self.hop_s or self.frame_s) * self.sample_rate_hz))

    @property
    def step(self) -> int:
        """Samples from one transform to the next, at least 1."""
        return max(1, round(self.n_fft * (1 - self.overlap)))

    @model_validator(mode="after")
    def _makes_a_picture(self) -> Self:
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
