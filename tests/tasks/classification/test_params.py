"""Parameters hold what the users of the replaced service know, and refuse what cannot work by name."""

from pathlib import Path
from typing import get_args

import pytest
from pydantic import ValidationError

from tasks.classification.params import (
    Architecture,
    AugmentParams,
    EvaluateParams,
    SplitParams,
    TrackParams,
    TrainParams,
    data_source,
)

MODELS = (SplitParams, AugmentParams, TrainParams, EvaluateParams, TrackParams)


@pytest.mark.parametrize(
    ("name", "default"),
    [
        ("num_classes", None),  # required there; here it is found in the data, and checked when given
        ("train_path", None),
        ("val_path", None),
        ("save_path", None),
        ("batch_size", 8),
        ("num_epochs", 100),
        ("learning_rate", 1e-4),
        ("image_size", 224),
        ("device", "cuda"),
        ("weight_path", None),
        ("pretrained", True),
        ("shuffle", True),
        ("task_id", None),
        ("description", None),
        ("optimizer", "adam"),
    ],
)
def test_training_defaults_are_those_of_the_replaced_service(name, default):
    assert getattr(TrainParams(), name) == default


def test_the_models_of_the_replaced_service_are_known():
    resnets = {f"resnet{n}" for n in (18, 34, 50, 101, 152)}
    vits = {f"vit_{size}_{patch}" for size in "bl" for patch in (16, 32)}
    others = {*(f"swin_v2_{s}" for s in "tsb"), "mobilenet_v3_large", "mobilenet_v3_small"}
    assert set(get_args(Architecture)) >= resnets | vits | others


def test_preparation_defaults_are_those_of_the_replaced_service():
    assert (SplitParams().train_ratio, SplitParams().val_ratio) == (0.7, 0.2)
    assert AugmentParams().model_dump(exclude={"enabled", "parts", "seed", "quality", "n_workers"}) == {
        "methods": ("AdvancedBlur", "CLAHE", "ColorJitter", "GaussNoise", "ISONoise", "Sharpen"),
        "AdvancedBlur": {
            "blur_limit": (7, 13),
            "sigma_limit": (7, 13),
            "rotate_limit": (-90, 90),
            "beta_limit": (0.5, 8),
            "noise_limit": (2, 10),
        },
        "CLAHE": {"clip_limit": 3, "tile_grid_size": (13, 13)},
        "ColorJitter": {"brightness": (0.5, 1.5), "contrast": (1, 1), "saturation": (1, 1), "hue": (0, 0)},
        "GaussNoise": {"variance": (100, 500)},
        "ISONoise": {"color_shift": (0.01, 0.05), "intensity": (0.2, 0.5)},
        "Sharpen": {"alpha": (0.2, 0.5), "lightness": (0.5, 1)},
    }


def test_only_the_training_part_gets_copies_unless_asked():
    assert AugmentParams().parts == ("train",)


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("model", "swin_v2_t", "resnet19"),
        ("num_classes", 2, 1),
        ("batch_size", 1, 0),
        ("num_epochs", 1, 0),
        ("learning_rate", 1e-9, 0),
        ("image_size", 32, 31),
        ("device", "cuda:15", "cuda:"),
        ("device", "cpu", "gpu"),
        ("optimizer", "sgd", "rmsprop"),
        ("weight_decay", 0, -1e-9),
        ("momentum", 0, 1),
        ("schedule", "cosine", "step"),
        ("label_smoothing", 0.99, 1),
        ("mixup", 0, -0.1),
        ("ema_decay", 0.999, 1),
        ("clip_grad_norm", 0, -1),
        ("accumulate", 1, 0),
        ("precision", "bf16", "int8"),
        ("patience", 0, -1),
        ("n_workers", 0, -1),
        ("seed", 2**32 - 1, 2**32),
        ("seed", 0, -1),
        ("checkpoint_every_s", 0.1, 0),
    ],
)
def test_a_value_at_the_bound_is_taken_and_one_past_it_is_refused_by_name(field, good, bad):
    assert getattr(TrainParams.model_validate({field: good}), field) == good
    with pytest.raises(ValidationError) as caught:
        TrainParams.model_validate({field: bad})
    assert [error["loc"] for error in caught.value.errors()] == [(field,)]


@pytest.mark.parametrize(
    ("model", "field", "bad"),
    [
        (SplitParams, "train_ratio", 0),
        (SplitParams, "val_ratio", 1),
        (SplitParams, "max_bad_share", 1.01),
        (AugmentParams, "methods", ["Blur"]),
        (AugmentParams, "parts", ["valid"]),
        (AugmentParams, "quality", 49),
        (AugmentParams, "n_workers", -1),
        (EvaluateParams, "n_bins", 1),
        (EvaluateParams, "n_worst", -1),
        (EvaluateParams, "confidence", 0.5),
        (EvaluateParams, "class_margin", -0.01),
        (TrackParams, "experiment", ""),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_name(model, field, bad):
    with pytest.raises(ValidationError) as caught:
        model.model_validate({field: bad})
    assert {error["loc"][0] for error in caught.value.errors()} == {field}


@pytest.mark.parametrize("model", MODELS)
def test_a_misspelt_key_is_refused_by_name(model):
    with pytest.raises(ValidationError, match=r"sead\n  Extra inputs are not permitted"):
        model.model_validate({"sead": 1})


def test_a_misspelt_argument_of_a_method_is_refused_by_name():
    with pytest.raises(ValidationError, match=r"Sharpen\.alfa\n  Extra inputs are not permitted"):
        AugmentParams.model_validate({"Sharpen": {"alfa": [0, 1]}})


@pytest.mark.parametrize("model", MODELS)
def test_parameters_come_back_from_json_as_they_were(model):
    assert model.model_validate_json(model().model_dump_json()) == model()


@pytest.mark.parametrize("none", [None, "None", "none", "null", "", " "])
@pytest.mark.parametrize("field", ["num_classes", "train_path", "save_path", "weight_path", "task_id"])
def test_every_word_for_no_value_is_no_value(field, none):
    assert getattr(TrainParams.model_validate({field: none}), field) is None


def test_parameters_do_not_change():
    with pytest.raises(ValidationError, match="frozen"):
        TrainParams().batch_size = 4


@pytest.mark.parametrize("ratios", [(0.7, 0.3), (0.9, 0.5)])
def test_ratios_leave_a_test_part(ratios):
    with pytest.raises(ValidationError, match=r"leaves no test part; need a sum below 1"):
        SplitParams(train_ratio=ratios[0], val_ratio=ratios[1])


@pytest.mark.parametrize("size", ["(96, 64)", [96, 64], "96,64"])
def test_a_size_that_is_not_square_is_refused(size):
    with pytest.raises(ValidationError, match=r"need a square one"):
        TrainParams.model_validate({"image_size": size})


@pytest.mark.parametrize(
    "names", [{"a": 1, "b": 2}, {"a": 0, "b": 0}, {"a": 0, "b": 2}, {0: "a", 1: "b"}, {"a": 0, "b": "x"}]
)
def test_class_numbers_that_are_not_0_to_n_are_refused(names):
    with pytest.raises(ValidationError, match=r"need 0 to 1, each once"):
        TrainParams.model_validate({"class_names": names})


def test_class_names_in_one_line_are_cut_at_the_commas():
    assert TrainParams.model_validate({"class_names": "dji, fpv"}).class_names == ("dji", "fpv")


@pytest.mark.parametrize("given", [{"train_path": "a"}, {"val_path": "b"}, {"val_path": "b", "test_path": "c"}])
def test_one_part_without_the_other_is_refused(given):
    with pytest.raises(ValidationError, match="found one of train_path and val_path, need both or neither"):
        TrainParams.model_validate(given)


def test_a_test_part_alone_is_refused():
    with pytest.raises(ValidationError, match="found test_path without train_path and val_path, need all three"):
        TrainParams(test_path=Path("c"))


def test_data_is_the_folder_given():
    assert data_source(Path("data"), TrainParams()) == Path("data")


def test_data_is_the_parts_that_the_training_names():
    both = TrainParams(train_path=Path("a"), val_path=Path("b"))
    assert data_source(None, both) == {"train": Path("a"), "val": Path("b")}
    three = TrainParams(train_path=Path("a"), val_path=Path("b"), test_path=Path("c"))
    assert data_source(None, three) == {"train": Path("a"), "val": Path("b"), "test": Path("c")}


def test_data_named_twice_is_refused():
    train = TrainParams(train_path=Path("a"), val_path=Path("b"))
    with pytest.raises(ValueError, match=r"found data=data and train\.train_path=a, need one of them"):
        data_source(Path("data"), train)


def test_data_named_nowhere_is_refused():
    with pytest.raises(ValueError, match=r"found no data: need data .*, or train\.train_path and train\.val_path"):
        data_source(None, TrainParams())


@pytest.mark.parametrize("model", [SplitParams, AugmentParams, TrainParams, EvaluateParams, TrackParams])
def test_parameters_written_out_in_full_are_read_back_the_same(model):
    assert model(**model().model_dump(mode="json")) == model()


@pytest.mark.parametrize("name", ["a/b", "a:b", "o'clock", ""])
def test_an_experiment_that_cannot_name_a_model_is_refused(name):
    with pytest.raises(ValidationError, match="experiment"):
        TrackParams(experiment=name)


def test_what_cannot_be_trained_together_is_refused():
    with pytest.raises(ValidationError, match="image_size 100 does not fit vit_b_32: need a multiple of 32"):
        TrainParams(model="vit_b_32", image_size=100)
    with pytest.raises(ValidationError, match="precision fp16 needs a GPU, found device cpu"):
        TrainParams(precision="fp16", device="cpu")
