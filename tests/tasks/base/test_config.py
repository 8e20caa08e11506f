"""Parameter files in both forms, and overrides, arrive where the flow takes them."""

from pathlib import Path

import pytest

from tasks.base.config import RFUAV_KEYS, override, read_parameters
from tasks.base.errors import ConfigError
from tasks.classification.params import TrainParams

# As its users write them, odd values included: key -> (text in the file, field, value in the model).
RFUAV = {
    "train": ("/data/train", "train_path", Path("/data/train")),
    "val": ("/data/valid", "val_path", Path("/data/valid")),
    "save_path": ("./res/", "save_path", Path("res")),
    "model": ("vit_b_16", "model", "vit_b_16"),
    "weights": ("/w/best.pth", "weight_path", Path("/w/best.pth")),
    "batch_size": ("16", "batch_size", 16),
    "image_size": ("224", "image_size", 224),
    "num_classes": ("3", "num_classes", 3),
    "class_names": ("[dji, fpv, noise]", "class_names", ("dji", "fpv", "noise")),
    "device": ("cuda:1", "device", "cuda:1"),
    "num_epochs": ("12", "num_epochs", 12),
    "shuffle": ("False", "shuffle", False),
    "lr": ("1e-3", "learning_rate", 1e-3),
    "optimizer": ("AdamW", "optimizer", "adamw"),
}


def written(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return path


def trained(tmp_path, text):
    return TrainParams.model_validate(read_parameters(written(tmp_path, text)).get("train", {}))


def test_a_file_with_every_rfuav_key_gives_what_it_says(tmp_path):
    train = trained(tmp_path, "".join(f"{key}: {text}\n" for key, (text, _, _) in RFUAV.items()))
    assert {field: getattr(train, field) for _, field, _ in RFUAV.values()} == {
        field: value for _, field, value in RFUAV.values()
    }


@pytest.mark.parametrize("key", RFUAV_KEYS)
def test_every_known_key_leads_to_a_field_of_the_model(key):
    section, _, field = RFUAV_KEYS[key].partition(".")
    assert section == "train"
    assert field in TrainParams.model_fields


def test_epochs_is_another_word_for_num_epochs(tmp_path):
    assert trained(tmp_path, "epochs: 7\n").num_epochs == 7


def test_class_names_may_be_a_map_of_names_to_numbers(tmp_path):
    assert trained(tmp_path, "class_names: {noise: 2, dji: 0, fpv: 1}\n").class_names == ("dji", "fpv", "noise")


@pytest.mark.parametrize("none", ["None", "'None'", "none", "null", "''", "~", ""])
@pytest.mark.parametrize("key", ["save_path", "weights", "num_classes", "class_names"])
def test_every_word_for_no_value_is_no_value(tmp_path, key, none):
    train = trained(tmp_path, f"{key}: {none}\n")
    assert getattr(train, RFUAV_KEYS[key].partition(".")[2]) is None


@pytest.mark.parametrize("size", ["(96, 96)", "'(96, 96)'", "[96, 96]", "96", "'96'"])
def test_a_square_size_is_one_number(tmp_path, size):
    assert trained(tmp_path, f"image_size: {size}\n").image_size == 96


@pytest.mark.parametrize("name", ["Adam", "ADAM", "adam"])
def test_the_optimizer_is_known_in_any_case(tmp_path, name):
    assert trained(tmp_path, f"optimizer: {name}\n").optimizer == "adam"


def test_a_nested_file_is_taken_as_the_flow_has_it(tmp_path):
    text = (
        "data: /d\nsplit: {seed: 3}\ntrain:\n  model: resnet34\n  num_epochs: 2\naugment:\n  Sharpen: {alpha: [0, 1]}\n"
    )
    assert read_parameters(written(tmp_path, text)) == {
        "data": "/d",
        "split": {"seed": 3},
        "train": {"model": "resnet34", "num_epochs": 2},
        "augment": {"Sharpen": {"alpha": [0, 1]}},
    }


def test_both_forms_may_stand_in_one_file(tmp_path):
    text = "split: {seed: 3}\nlr: 0.5\ntrack.experiment: bands\n"
    assert read_parameters(written(tmp_path, text)) == {
        "split": {"seed": 3},
        "train": {"learning_rate": 0.5},
        "track": {"experiment": "bands"},
    }


def test_a_misspelt_key_is_passed_on_to_be_refused_by_name(tmp_path):
    assert read_parameters(written(tmp_path, "bach_size: 4\n")) == {"bach_size": 4}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", r"config\.yaml is not YAML: while parsing"),
        ("- 1\n", r"found a list in .*config\.yaml, need a mapping of parameters"),
        ("", r"found a NoneType in .*, need a mapping"),
        ("epochs: 3\nnum_epochs: 4\n", r"config\.yaml: num_epochs sets train\.num_epochs a second time: 3, then 4"),
        (
            "lr: 1\ntrain: {learning_rate: 2}\n",
            r"train\.learning_rate sets train\.learning_rate a second time: 1, then 2",
        ),
        ("track: fast\ntrack.experiment: x\n", r"sets track\.experiment, but track is already 'fast'"),
    ],
)
def test_a_wrong_file_is_refused_with_what_is_wrong(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        read_parameters(written(tmp_path, text))


def test_a_file_that_is_no_text_is_not_yaml(tmp_path):
    (tmp_path / "weights.pt").write_bytes(b"\xff\xfe\x00\x9d")
    with pytest.raises(ConfigError, match=r"is not UTF-8 text .*weights\.pt"):
        read_parameters(tmp_path / "weights.pt")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot be read, No such file or directory: .*none\.yaml"):
        read_parameters(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("a=3", 3),
        ("a=1e-3", 1e-3),
        ("a=-2.5", -2.5),
        ("a=true", True),
        ("a=null", None),
        ("a=", None),
        ("a=[x, 2]", ["x", 2]),
        ("a={b: 1}", {"b": 1}),
        ("a=cuda:1", "cuda:1"),
        ("a=resnet18", "resnet18"),
        ("a=/data/x=y", "/data/x=y"),
        ("a='1e-3'", "1e-3"),
        ("a=nan", "nan"),
    ],
)
def test_an_override_means_what_it_looks_like(assignment, value):
    parameters = {}
    override(parameters, [assignment])
    assert parameters == {"a": value}
    assert type(parameters["a"]) is type(value)


def test_an_override_replaces_one_value_and_leaves_its_neighbours():
    parameters = {"train": {"num_epochs": 100, "model": "resnet50"}}
    override(parameters, ["train.num_epochs=3", "augment.Sharpen.alpha=[0, 1]", "train.num_epochs=4"])
    assert parameters == {
        "train": {"num_epochs": 4, "model": "resnet50"},
        "augment": {"Sharpen": {"alpha": [0, 1]}},
    }


@pytest.mark.parametrize("assignment", ["train.num_epochs", "=3", ""])
def test_an_override_without_a_name_or_a_value_is_refused(assignment):
    with pytest.raises(ConfigError, match=r"need NAME=VALUE such as train\.num_epochs=3") as caught:
        override({}, [assignment])
    assert repr(assignment) in str(caught.value)


def test_an_override_that_is_no_yaml_is_refused():
    with pytest.raises(ConfigError, match=r"the value in 'a=\[1' is not YAML"):
        override({}, ["a=[1"])
