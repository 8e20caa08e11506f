"""Which folders are served."""

import json

import pytest

from tasks.base.errors import ConfigError, WeightsError
from tasks.vision_language.model_folder import check_model_folder
from tasks.vision_language.steps import check_kind


def test_a_folder_is_refused_with_what_it_lacks(tmp_path):
    with pytest.raises(ConfigError, match="found no folder"):
        check_model_folder(tmp_path / "none")
    with pytest.raises(WeightsError, match=r"no config\.json"):
        check_model_folder(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(WeightsError, match="no model_type"):
        check_model_folder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2_5_vl"}))
    with pytest.raises(WeightsError, match="found no weights"):
        check_model_folder(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(WeightsError, match=r"pytorch_model\.bin, which can run code"):
        check_model_folder(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"x")
    assert check_model_folder(tmp_path) == (tmp_path.resolve(), "qwen2_5_vl")


def test_a_folder_outside_the_allowed_roots_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINYARD_ALLOWED_ROOTS", str(tmp_path / "models"))
    with pytest.raises(ConfigError, match="outside the allowed roots"):
        check_model_folder(tmp_path)


def test_a_model_that_is_shown_no_images_is_refused(tmp_path):
    check_kind("qwen2_5_vl", tmp_path)
    with pytest.raises(WeightsError, match="type 'bert'"):
        check_kind("bert", tmp_path)
