"""What of a run's parameters decides its memory, whoever wrote them down and however many of them."""

from importlib import import_module

import pytest
from prefect.utilities.callables import parameter_schema

from gpu_pools.project_flows import entrypoints
from gpu_pools.sharing.memory_settings import PARAMETERS, MemorySetting, setting_of

DEFAULTS = {
    "train": {"model": "resnet18", "optimizer": "adam", "precision": "auto", "batch_size": 8, "image_size": 224}
}


def fields(entrypoint: str) -> set[str]:
    """Return the parameters of a flow as SECTION.NAME, or NAME where one has no parts."""
    module, _, name = entrypoint.rpartition(".")
    schema = parameter_schema(getattr(import_module(module), name).fn).model_dump()
    found = set()
    for section, its in schema["properties"].items():
        model = schema["definitions"].get(its.get("$ref", "").rpartition("/")[2], {})
        found |= {section, *(f"{section}.{name}" for name in model.get("properties", {}))}
    return found


@pytest.mark.parametrize("flow", PARAMETERS)
def test_a_flow_has_the_parameters_that_are_looked_at(flow):
    matters = PARAMETERS[flow]
    have = fields(entrypoints().get(flow, f"flows.program.{flow}"))
    assert {*matters.model, *matters.rate, *matters.factors} <= have


def test_what_a_run_does_not_name_is_as_its_deployment_has_it():
    full = setting_of("train_classifier", {**DEFAULTS, "dataset": "/d"}, {})
    assert setting_of("train_classifier", {"dataset": "/d"}, DEFAULTS) == full
    assert full == MemorySetting(
        "train_classifier; train.model=resnet18; train.optimizer=adam", "train.precision=auto", 8.0 * 224**2
    )
    other = setting_of("train_classifier", {"train": {"batch_size": 16}}, DEFAULTS)
    assert other is not None
    assert (other.model, other.size) == (full.model, 2 * 8.0 * 224**2)


def test_a_pipeline_in_a_persons_process_takes_what_its_training_takes():
    assert setting_of("classification", DEFAULTS, {}) == setting_of("train_classifier", DEFAULTS, {})


def test_the_size_of_a_splat_is_known_where_its_gaussians_are_bounded():
    quick = setting_of("train_splat", {"train": {"preset": "quick"}}, {})
    assert quick is not None
    assert quick.size is None
    bounded = setting_of("train_splat", {"train": {"preset": "quick", "cap_max": 1_000_000}}, {})
    assert bounded is not None
    assert bounded.size == 1e6
    assert bounded.rate != quick.rate


@pytest.mark.parametrize(
    ("flow", "parameters"),
    [
        ("prepare_dataset", {}),
        ("describe", {"ask": {"model": "/m", "batch_size": 0}}),  # fits itself in
        ("train_classifier", {"train": {"batch_size": "8", "image_size": 224}}),
        ("train_classifier", {"train": {"batch_size": -1, "image_size": 224}}),
    ],
)
def test_of_others_nothing_is_known(flow, parameters):
    assert setting_of(flow, parameters, {}) is None


def test_parameters_that_are_no_sections_are_no_fault():
    assert setting_of("serve", {"model": "/models/a", "serve": 7, "gate": None}, {}) == MemorySetting(
        "serve; model=/models/a"
    )
