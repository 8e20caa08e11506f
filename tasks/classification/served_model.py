"""The model that MLflow serves: encoded images in, classes and probabilities out.

MLflow stores this file beside the weights and runs it where the model is loaded, so nothing is pickled, and
nothing of this project needs to be installed there.
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
from torch import Tensor, nn

_BATCH = 32


class ServedClassifier(PythonModel):
    """Predicts the class of each image, on a GPU where there is one."""

    def load_context(self, context: Any) -> None:
        """Build the network and load its weights.

        Args:
            context: MLflow's; its artifacts are `config` (JSON: model, classes, image_size, mean, std), `weights`
                (a state dict), `decoding` (the code that made pixels of the images it was trained on) and `networks`
                (the code that built it).
        """
        self.decoding = load_code(Path(context.artifacts["decoding"]))
        config = json.loads(Path(context.artifacts["config"]).read_text(encoding="utf-8"))
        self.classes: list[str] = config["classes"]
        self.size: int = config["image_size"]
        self.mean = torch.tensor(config["mean"]).view(3, 1, 1)
        self.std = torch.tensor(config["std"]).view(3, 1, 1)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network: nn.Module = load_code(Path(context.artifacts["networks"])).build(
            config["model"], len(self.classes), self.size
        )
        self.network.load_state_dict(torch.load(context.artifacts["weights"], map_location="cpu", weights_only=True))
        self.network.eval().to(self.device)

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        """Return one row per image: class, probability, and the probabilities of all classes in their order.

        Args:
            model_input: the column `image` holds files as bytes (over REST: as base64).

        Raises:
            ValueError: a row holds no image.
        """
        rows = list(model_input["image"])
        parts = [np.zeros((0, len(self.classes)))]
        for start in range(0, len(rows), _BATCH):
            batch = [self._tensor(content, start + i) for i, content in enumerate(rows[start : start + _BATCH])]
            with torch.inference_mode():
                logits = self.network(torch.stack(batch).to(self.device)).float()
            parts.append(logits.softmax(1).cpu().numpy().astype(np.float64))
        probabilities = np.concatenate(parts)
        best = probabilities.argmax(1)
        return pd.DataFrame(
            {
                "class": [self.classes[i] for i in best],
                "probability": probabilities[np.arange(len(best)), best],
                "probabilities": probabilities.tolist(),
            },
            index=model_input.index,
        )

    def _tensor(self, content: Any, row: int) -> Tensor:
        image = self.decoding.decode_cell(content, row, self.size)
        pixels = torch.from_numpy(image).permute(2, 0, 1).float() / 255  # (3, S, S)
        return (pixels - self.mean) / self.std


def load_code(path: Path) -> ModuleType:
    """Return the module in a file, under a name of its own: what is installed here may have one of the same."""
    module = ModuleType(f"trainyard_{path.stem}")
    # Not imported: that would leave compiled code beside it, among the artifacts.
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), module.__dict__)
    return module


set_model(ServedClassifier())
