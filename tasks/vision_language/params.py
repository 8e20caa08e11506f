"""Parameters of serving a vision-language model."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from tasks.base.params import Device, NoneText, Owner, Params

Duration = Annotated[str, Field(pattern=r"^\d+(\.\d+)?[smhd]$", description="90s, 30m, 4h or 2d")]
MaybeDuration = Annotated[Duration | None, NoneText]

ImageHost = Annotated[str, Field(pattern=r"^([a-z0-9]([a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(:[1-9]\d{0,4})?$")]


class ServeParams(Params):
    """What answers, on what device, and for how long."""

    device: Device = "cuda"
    engine: Annotated[
        str,
        Field(
            min_length=1,
            description="transformers; vllm, or the path of a vllm of an environment of its own; or any command that "
            "speaks OpenAI's chat API, in which {model}, {host} and {port} stand for their values",
        ),
    ] = "transformers"
    lasts: Annotated[MaybeDuration, Field(description="Ends then, whoever asks; empty: never")] = None
    idle: Annotated[MaybeDuration, Field(description="Ends after so long without a request")] = "30m"
    give_way: Annotated[
        MaybeDuration,
        Field(description="Ends after so long without a request where a run of higher priority waits for its slot"),
    ] = "5m"
    start_limit: Annotated[Duration, Field(description="For the engine to be ready")] = "10m"
    owner: Owner = ""


class GateParams(Params):
    """What the gate in front of the engine lets in."""

    host: Annotated[str, Field(min_length=1, description="Address it listens on; beyond this machine with a token")] = (
        "127.0.0.1"
    )
    port: Annotated[int, Field(ge=0, le=65_535, description="0: any that is free")] = 0
    limit: Annotated[
        int, Field(ge=0, le=1000, description="Requests at once; 0: 3, or 5 with 16 GB of GPU memory, 8 with 32 GB")
    ] = 0
    wait_s: Annotated[
        float, Field(ge=0, le=3600, description="How long one more request waits for its turn; 0: refused at once")
    ] = 0
    time_limit_s: Annotated[float, Field(gt=0, le=86_400, description="Of a request, then its generation ends")] = 300
    body_limit_s: Annotated[float, Field(gt=0, le=3600, description="For a request to arrive in full")] = 60
    max_body_mib: Annotated[int, Field(ge=1, le=4096, description="Of a request, with its images")] = 64
    max_images: Annotated[int, Field(ge=0, le=1000, description="In a request, with its history")] = 32
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000, description="New ones, where a request does not say")] = 1024
    token_file: Annotated[
        Path | None, NoneText, Field(description="A file of mode 0600 with the token that requests must bear")
    ] = None
    image_hosts: Annotated[
        tuple[ImageHost, ...],
        Field(description="Where http: and https: URLs of images may lead: images.lab, images.lab:8080, 10.0.0.7"),
    ] = ()
    image_folder: Annotated[
        Path | None, NoneText, Field(description="file: URLs may name images below it; empty: none")
    ] = None


Role = Literal["system", "developer", "user", "assistant"]
