"""The parameters of a flow are those of Prefect's form, and are known without Prefect."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from deployments.runs.flow_list import descriptions, entrypoints
from deployments.runs.flow_parameters import argument_meanings, flow_parameters, in_form_order, parallel_sections

ROOT = Path(__file__).parents[3]
FLOWS = entrypoints()


def form_fields(schema, models, prefix=""):
    """Yield the dotted name and the fields' facts, of groups and all that is in them, as Prefect's page gets them."""
    for name, field in schema["properties"].items():
        yield f"{prefix}{name}", field
        for side in field.get("anyOf") or field.get("allOf") or [field]:
            if "$ref" in side:
                yield from form_fields(models[side["$ref"].rpartition("/")[2]], models, f"{prefix}{name}.")


@pytest.mark.parametrize("name", FLOWS)
def test_they_are_those_of_the_form(name):
    module, _, function = FLOWS[name].rpartition(".")
    form = getattr(import_module(module), function).parameters.model_dump()
    fields = dict(form_fields(form, form["definitions"]))
    found = {parameter.name: parameter for parameter in flow_parameters(name)}
    assert list(found) == list(fields)
    assert {each: parameter.meaning for each, parameter in found.items() if parameter.kind} == {
        each: " ".join(fields[each].get("description", "").split()) for each in found if found[each].kind
    }
    needed = {each for each, parameter in found.items() if parameter.kind and parameter.default is None}
    assert needed == {each for each in found if found[each].kind and "default" not in fields[each]}


def test_type_bounds_and_default_are_told():
    found = {parameter.name: parameter for parameter in flow_parameters("classification")}

    def told(name):
        return found[name].kind, found[name].bounds, found[name].default

    assert told("train.num_epochs") == ("int", ">= 1", "100")
    assert told("train.image_size") == ("int", ">= 32", "224")
    assert told("train.num_classes") == ("int | null", ">= 2", "null")
    assert told("train.learning_rate") == ("float", "> 0", "0.0001")
    assert told("train.optimizer") == ("adam | adamw | sgd", "", "adam")
    assert told("split.val_ratio") == ("float", "> 0, < 1", "0.2")
    assert told("augment.parts") == ("list of (train | val | test)", "", "[train]")
    assert told("augment.AdvancedBlur.sigma_limit") == ("[float, float]", "", "[7, 13]")
    assert told("track.owner") == ("text", "at most 100 characters", '""')
    assert told("augment") == ("", "", None)


def test_a_group_that_may_be_missing_says_so():
    found = {parameter.name: parameter for parameter in flow_parameters("snr_benchmark")}
    assert (found["mix"].kind, found["mix"].default) == ("", "null")
    assert found["mix.snrs_db"].bounds == "at least 1 of them"


def test_nothing_heavy_is_imported_for_them():
    code = (
        "import sys\n"
        "from deployments.runs.flow_list import entrypoints\n"
        "from deployments.runs.flow_parameters import flow_parameters\n"
        "all(flow_parameters(name) for name in entrypoints())\n"
        "print(sorted({'prefect', 'torch', 'mlflow', 'cv2', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_flow_with_types_of_its_own_module_has_them_too(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs" / "examples")
    monkeypatch.setenv("TRAINYARD_FLOWS", "lab.flows.digits")
    found = {parameter.name: parameter for parameter in flow_parameters("digits")}
    assert (found["train.n_epochs"].bounds, found["train.n_epochs"].meaning) == (">= 1", "Passes over the images")
    assert descriptions()["digits"] == "lab.flows.digits, of TRAINYARD_FLOWS"


def test_the_parameters_of_a_run_are_in_the_order_of_the_form():
    stored = {"run": "r", "train": {"seed": 1, "model": "vit", "batch_size": 2, "later": 3}, "dataset": "/d"}
    assert list(in_form_order("train_classifier", stored)) == ["dataset", "train", "run"]
    assert list(in_form_order("train_classifier", stored)["train"]) == ["model", "batch_size", "seed", "later"]
    assert list(in_form_order("a flow of somebody else", stored)) == ["dataset", "run", "train"]


def test_the_meaning_of_an_argument_may_take_several_lines():
    text = "Args:\n    data: a folder,\n        or a file: both.\n    n: how many.\n\nReturns:\n    It: so."
    assert argument_meanings(f"Do it.\n\nMore.\n\n{text}") == {"data": "a folder, or a file: both.", "n": "how many."}
    assert argument_meanings("Do it.") == {}


def test_flows_that_compute_on_several_devices_are_known():
    assert {name: parallel_sections(name) for name in FLOWS if parallel_sections(name)} == {
        "classification": ["train"],
        "recognition": ["detector", "index"],
        "report_recognition": ["detector", "index"],
        "splatting": ["train"],
        "train_classifier": ["train"],
        "train_detector": ["detector"],
        "train_index": ["index"],
        "train_splat": ["train"],
    }
