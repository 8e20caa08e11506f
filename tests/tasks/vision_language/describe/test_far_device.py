"""A model is asked where all its tensors lie apart from the CPU, and answers the same."""

import torch

from tasks.vision_language.describe.model import Asker, load_model
from tests.far_device import FAR, Far
from tests.tasks.vision_language.describe.test_asking import answers


def test_answers_of_another_device_are_those_of_the_cpu(tiny, pictures):
    near = answers(pictures, Asker(*load_model(tiny, torch.device("cpu"), "fp32")[:2], 12, 4, print))
    with Far():
        far = answers(pictures, Asker(*load_model(tiny, FAR, "fp32")[:2], 12, 4, print))
    assert [(a.text, a.n_prompt, a.n_new, a.finish) for a in far] == [
        (a.text, a.n_prompt, a.n_new, a.finish) for a in near
    ]
