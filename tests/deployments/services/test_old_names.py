"""A deployment is found by the name that it had before."""

import pytest

from deployments.services.old_names import by_new_name

NAMES = "/api/deployments/name"


@pytest.mark.parametrize(
    ("asked", "passed_on"),
    [
        (f"{NAMES}/classification/yard", f"{NAMES}/classification/build-classifier"),
        (f"{NAMES}/train_splat/yard", f"{NAMES}/train_splat/stage-train-splat"),
        (f"{NAMES}/classification/build-classifier", None),
        (f"{NAMES}/flow_of_somebody/yard", None),  # may well be called so
        (f"{NAMES}/classification/yard/schedules", None),
        ("/api/flows/name/yard", None),
    ],
)
def test_the_old_name_of_our_deployments_leads_to_the_new_one(asked, passed_on):
    scope = {"type": "http", "path": asked, "raw_path": asked.encode()}
    expected = passed_on or asked
    assert by_new_name(scope) == {"type": "http", "path": expected, "raw_path": expected.encode()}


def test_what_is_no_request_for_a_path_is_passed_on():
    assert by_new_name({"type": "lifespan"}) == {"type": "lifespan"}
