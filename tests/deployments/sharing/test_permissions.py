"""Who may change what, as a function of owner, asker and admins."""

import pytest

from deployments.sharing.permissions import Target, fault, is_same
from gpu_pools.names import FROM_PAGE, FROM_SCHEDULE, is_called

RUN = Target("run", "1234", "fit", "anna@boxa")
QUEUE = Target("device", "", "cuda:1", shared=True)


@pytest.mark.parametrize("who", ["anna@boxa", "anna@boxb", "anna"])
def test_the_owner_may_from_whatever_host(who):
    assert fault("cancel", RUN, who, ()) == ""


@pytest.mark.parametrize("who", ["ben@boxa", "annabel@boxa", "boxa", ""])
def test_somebody_else_may_not(who):
    said = fault("cancel", RUN, who, ())
    assert said.startswith("run 1234 (fit) belongs to anna@boxa: only its owner may cancel it, and you are ")
    assert said.endswith("; --force does it all the same, and is noted")


@pytest.mark.parametrize(
    ("who", "may"), [("carl@boxa", True), ("carl@boxb", True), ("root@boxa", True), ("root@boxb", False)]
)
def test_an_admin_is_one_of_whatever_host_or_there_alone(who, may):
    assert (fault("delete", RUN, who, ("carl", "root@boxa")) == "") is may


def test_the_refusal_names_the_admins():
    assert "only its owner and the yard's admins (carl, root@boxa) may" in fault(
        "delete", RUN, "ben@boxa", ("carl", "root@boxa")
    )


@pytest.mark.parametrize("owner", ["", FROM_PAGE, FROM_SCHEDULE])
@pytest.mark.parametrize("admins", [(), ("carl",)])
def test_what_belongs_to_nobody_anybody_may_change(owner, admins):
    assert fault("cancel", Target("run", "1", "form", owner), "ben@boxa", admins) == ""


def test_the_yard_is_its_admins_where_it_has_any():
    assert fault("limit", QUEUE, "ben@boxa", ()) == ""
    assert fault("limit", QUEUE, "carl@boxb", ("carl",)) == ""
    assert fault("limit", QUEUE, "ben@boxa", ("carl",)) == (
        "device cuda:1 belongs to the yard: only the yard's admins (carl) may limit it, and you are ben@boxa; "
        "--force does it all the same, and is noted"
    )


def test_names():
    assert is_called("anna@boxa", "anna")
    assert not is_called("anna@boxa", "anna@boxb")
    assert not is_same("", "")
