"""The tiny model is one that transformers loads and runs."""

import pytest
from PIL import Image


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_it_is_shown_an_image_and_says_something(tmp_path):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from tasks.vision_language.tiny_model import make_tiny_model

    make_tiny_model(tmp_path)
    processor = AutoProcessor.from_pretrained(tmp_path)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert sum(weights.numel() for weights in model.parameters()) < 250_000
    parts = [{"type": "image", "image": Image.new("RGB", (56, 56))}, {"type": "text", "text": "what?"}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": parts}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    assert model.generate(**inputs, max_new_tokens=3).shape[1] > inputs["input_ids"].shape[1]
