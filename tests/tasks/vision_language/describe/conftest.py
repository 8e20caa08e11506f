"""A tiny model of a real class, a model that says what it is told to, and images to ask about."""

import json

import cv2
import numpy as np
import pytest
import torch

from tasks.vision_language.describe.model import Asker, load_model
from tests.tasks.vision_language.yard_serve import make_model


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Return the folder of a tiny model."""
    return make_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def model(tiny):
    """Return model and processor."""
    return load_model(tiny, torch.device("cpu"), "auto")[:2]


class Scripted:
    """A model that says given texts, in order, and whose memory holds so many questions at once."""

    def __init__(self, model, processor, texts=(), most=1000):
        self.device, self.dtype, self.generation_config = model.device, model.dtype, model.generation_config
        self._tokenizer, self._texts, self._most = processor.tokenizer, list(texts), most
        self.prompts, self.sizes = [], []

    def generate(self, input_ids, attention_mask, **options):
        self.sizes.append(len(input_ids))
        if len(input_ids) > self._most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.prompts += [self._tokenizer.decode(ids) for ids in input_ids]
        end = self.generation_config.eos_token_id
        said = [[*self._tokenizer.encode(self._texts.pop(0) if self._texts else "yes"), end] for _ in input_ids]
        longest = max(map(len, said))
        rows = [row + [self.generation_config.pad_token_id] * (longest - len(row)) for row in said]
        return torch.cat([input_ids, torch.tensor(rows)], dim=1)


@pytest.fixture
def scripted(model):
    """Return a function that makes an asker of a model that says given texts."""

    def make(*texts, most=1000, batch_size=4):
        says = Scripted(*model, [text if isinstance(text, str) else json.dumps(text) for text in texts], most)
        notes = []
        asker = Asker(says, model[1], 20, batch_size, notes.append)
        asker.notes, asker.model = notes, says
        return asker

    return make


@pytest.fixture
def pictures(tmp_path):
    """Return a folder of two classes with three images each."""
    for name, colour in (("cat", (30, 90, 200)), ("dog", (200, 90, 30))):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(3):
            picture = np.full((48, 64, 3), colour, np.uint8)
            cv2.circle(picture, (32, 24), 5 + 5 * i, (255, 255, 255), -1)
            cv2.imwrite(str(tmp_path / "pets" / name / f"{i}.png"), picture)
    return tmp_path / "pets"
