"""The index that MLflow serves: encoded images in, parts, nearest views and poses out.

MLflow keeps this file with the index. It needs nothing of this project where it runs, and nothing is pickled.
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
from torch import Tensor

_BATCH = 32
_UNKNOWN = "unknown"


class ServedIndex(PythonModel):
    """Says which part each image shows, on a GPU where there is one."""

    def load_context(self, context: Any) -> None:
        """Build the network and read the index.

        Args:
            context: MLflow's; its artifacts are `config` (JSON), `weights` (a state dict), `vectors` (of FAISS),
                `views` (a table, a row for each vector), and the code that made pixels of the images (`decoding`),
                built the network (`networks`) and searches (`lookup`).
        """
        self.decoding, networks, self.lookup = (
            load_code(Path(context.artifacts[name])) for name in ("decoding", "networks", "lookup")
        )
        self.config: dict[str, Any] = json.loads(Path(context.artifacts["config"]).read_text(encoding="utf-8"))
        self.names: list[str] = self.config["parts"]
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = networks.build(self.config)
        self.network.load_state_dict(torch.load(context.artifacts["weights"], map_location="cpu", weights_only=True))
        self.network.eval().to(self.device)
        self.index = self.lookup.read_index(Path(context.artifacts["vectors"]))
        # Names as they are: a part may be called "NA".
        self.views = pd.read_csv(context.artifacts["views"], keep_default_na=False, dtype={"path": str, "name": str})
        numbers = {name: number for number, name in enumerate(self.names)}
        self.labels = self.views["name"].map(numbers).to_numpy(dtype=np.int64)
        if len(self.labels) != self.index.ntotal:
            raise ValueError(f"found {self.index.ntotal} vectors and {len(self.labels)} views, need one for each")
        self.search = self.lookup.Lookup(self.index, self.labels, self.config.get("levels"))

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        """Return one row per image.

        They are: the part ("unknown" below the threshold), the score, the nearest views (path, part, similarity), and
        the rotation of the nearest one of that part: a quaternion w, x, y, z, part frame -> camera frame.

        Args:
            model_input: the column `image` holds files as bytes (over REST: as base64).

        Raises:
            ValueError: a row holds no image.
        """
        rows = list(model_input["image"])
        vectors = [np.zeros((0, self.index.d), dtype=np.float32)]
        for start in range(0, len(rows), _BATCH):
            batch = [self._pixels(content, start + i) for i, content in enumerate(rows[start : start + _BATCH])]
            with torch.inference_mode():
                vectors.append(self.network(torch.stack(batch).to(self.device)).cpu().numpy())
        found = self.search.answers(
            np.concatenate(vectors), threshold=self.config["threshold"], n_nearest=self.config["n_nearest"]
        )
        columns = ["part", "score", "nearest", "rotation"]
        return pd.DataFrame([self._row(each) for each in found], columns=columns, index=model_input.index)

    def _row(self, found: Any) -> dict[str, Any]:
        views = self.views.iloc[found.rows]
        nearest = [
            {"path": path, "part": part, "similarity": float(cosine)}
            for path, part, cosine in zip(views["path"], views["name"], found.similarities, strict=True)
        ]
        own = self.views.iloc[[] if found.row is None else [found.row]]
        rotation = [float(value) for value in own[["w", "x", "y", "z"]].to_numpy().ravel()]
        part = _UNKNOWN if found.part is None else self.names[found.part]
        return {"part": part, "score": float(found.score), "nearest": nearest, "rotation": rotation}

    def _pixels(self, content: Any, row: int) -> Tensor:
        image = self.decoding.made_square(self.decoding.decode_cell(content, row))
        square = self.decoding.resize_rgb(image, self.config["image_size"])
        return torch.from_numpy(square).permute(2, 0, 1)  # (3, S, S) uint8


def load_code(path: Path) -> ModuleType:
    """Return the module in a file, under a name of its own: what is installed here may have one of the same."""
    module = ModuleType(f"trainyard_{path.stem}")
    # Not imported: that would leave compiled code beside it, among the artifacts.
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), module.__dict__)
    return module


set_model(ServedIndex())
