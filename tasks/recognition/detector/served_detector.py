"""The detector that MLflow serves: encoded images in, boxes with names and scores out.

MLflow keeps this file with the weights. It needs nothing of this project where it runs, and nothing is pickled.
"""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import torch
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel
from numpy.typing import NDArray

_BATCH = 16


class ServedDetector(PythonModel):
    """Finds the parts on each image, on a GPU where there is one."""

    def load_context(self, context: Any) -> None:
        """Build the network and load its weights.

        Args:
            context: MLflow's; its artifacts are `config` (JSON: network, classes, image_size, threshold), `weights` (a
                state dict), and the code `decoding` (makes pixels of files), `squaring` (makes the square that the
                network sees) and `networks` (builds it).
        """
        self.decoding = load_code(Path(context.artifacts["decoding"]))
        self.squaring = load_code(Path(context.artifacts["squaring"]))
        config = json.loads(Path(context.artifacts["config"]).read_text(encoding="utf-8"))
        self.names: list[str] = config["classes"]
        self.size: int = config["image_size"]
        self.threshold: float = config["threshold"]
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = load_code(Path(context.artifacts["networks"])).build(config)
        self.network.load_state_dict(torch.load(context.artifacts["weights"], map_location="cpu", weights_only=True))
        self.network.eval().to(self.device)

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        """Return one row per image: boxes (left, top, right, bottom in pixels of the image), names, scores.

        Args:
            model_input: the column `image` holds files as bytes (over REST: as base64).
            params: `threshold`, the least score; empty: the one that was best on scenes for validation.

        Raises:
            ValueError: a row holds no image.
        """
        threshold = float((params or {}).get("threshold") or self.threshold)
        files = list(model_input["image"])
        rows: list[dict[str, Any]] = []
        for start in range(0, len(files), _BATCH):
            batch = files[start : start + _BATCH]
            images = [self.decoding.decode_cell(content, start + i) for i, content in enumerate(batch)]
            squares = np.stack([self.squaring.squared(image, self.size) for image in images])
            with torch.inference_mode():
                found = self.network.find(torch.from_numpy(squares).permute(0, 3, 1, 2).to(self.device).float() / 255)
            rows += [self._row(each, image, threshold) for each, image in zip(found, images, strict=True)]
        return pd.DataFrame(rows, index=model_input.index, columns=["boxes", "names", "scores"])

    def _row(self, found: dict[str, Any], image: NDArray[np.uint8], threshold: float) -> dict[str, Any]:
        height, width = image.shape[:2]
        boxes = found["boxes"].cpu().numpy().astype(np.float64) * max(height, width) / self.size
        boxes = boxes.clip(0, (width, height, width, height))  # some lie on the grey beside the image
        scores = found["scores"].cpu().numpy().astype(np.float64)
        keep = (scores >= threshold) & (boxes[:, 2:] > boxes[:, :2]).all(1)
        labels = found["labels"].cpu().numpy()[keep]
        return {
            "boxes": boxes[keep].tolist(),
            "names": [self.names[int(label)] for label in labels],
            "scores": scores[keep].tolist(),
        }


def load_code(path: Path) -> ModuleType:
    """Return the module in a file, under a name of its own: what is installed here may have one of the same."""
    module = ModuleType(f"trainyard_{path.stem}")
    # Not imported: that would leave compiled code beside it, among the artifacts.
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), module.__dict__)
    return module


set_model(ServedDetector())
