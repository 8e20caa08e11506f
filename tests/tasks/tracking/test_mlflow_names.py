"""Whatever people call their classes, images and folders, MLflow takes it, and what differs stays different."""

from hypothesis import given
from hypothesis import strategies as st

from tasks.tracking.mlflow_names import as_name, check_name


@given(st.text(min_size=1), st.text(min_size=1))
def test_any_text_becomes_a_part_of_a_name(one, other):
    check_name("metric", f"class/{as_name(one)}/x")
    assert "/" not in as_name(one)
    assert (as_name(one) == as_name(other)) == (one == other)


def test_names_that_can_be_taken_stay():
    for name in ("DJI FPV", "snr_-20", "a.b-c", "7"):
        assert as_name(name) == name


def test_others_keep_what_can_be_read_of_them():
    for name, beginning in (
        ("jet (1)", "jet _1-"),
        ("k\u00fcche", "kuche-"),
        ("../../etc/x", "etc_x-"),
        ("a/b", "a_b-"),
    ):
        assert as_name(name).startswith(beginning)
    assert as_name("\u9e1f") != as_name("\u8f66")
    assert len(as_name("x" * 300)) < 100
