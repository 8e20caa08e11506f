"""Where people stand, and what is left of their quotas."""

import pytest

from gpu_pools.sharing.settings import YardSettings
from gpu_pools.sharing.standing import standings
from tests.gpu_pools.sharing.test_quotas import DAY, HOUR, NOW, use

SETTINGS = YardSettings.model_validate(
    {
        "groups": {"lab": ["anna", "ben"]},
        "quotas": {
            "each": {"slots": 2},
            "owners": {"ben": {"gpu_hours": 5}, "dora": {"slots": 1}},
            "groups": {"lab": {"gpu_hours": 20}},
        },
    }
)


def test_who_had_least_is_first_and_groups_are_last():
    uses = [
        use(3),
        use(1, owner="anna@boxb", state="RUNNING"),
        use(7, ago_s=DAY, owner="ben@boxa"),
        use(9, device="cpu"),
    ]
    dora, anna, ben, lab = standings(uses, SETTINGS, NOW)
    assert [row.who for row in (dora, anna, ben, lab)] == ["dora", "anna", "ben", "group lab"]
    assert (dora.share, dora.week_h, dora.slots_quota, dora.hours_left) == (0.0, 0.0, 1, None)
    assert (anna.slots, anna.slots_quota, anna.week_h) == (1, 2, pytest.approx(4))
    assert anna.share + ben.share == pytest.approx(1)
    assert (ben.hours_left, ben.more_from) == (0.0, pytest.approx(NOW + 6 * DAY - 5 * HOUR, abs=2))
    assert (lab.week_h, lab.hours_left, lab.more_from) == (pytest.approx(11), pytest.approx(9), None)
    assert lab.share == pytest.approx(1)
