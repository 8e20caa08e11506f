"""How large an image may be when anything looks at it."""

from typing import Annotated

from pydantic import Field

from tasks.base.params import Params


class PrepareParams(Params):
    """How large an image may be when anything looks at it; larger ones are shrunk, sides in proportion."""

    max_side: Annotated[int, Field(ge=32, le=65_500, description="Longest side, pixels")] = 1024
    max_pixels: Annotated[int, Field(ge=1024, description="Pixels in all")] = 1_003_520
