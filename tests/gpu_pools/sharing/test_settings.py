"""The settings of a yard: what is left out, what is wrong."""

import pytest

from gpu_pools.sharing.settings import YardSettings, read_settings, settings_path
from tasks.base.errors import ConfigError


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path))


@pytest.mark.parametrize("text", [None, "", "# nothing yet\n"])
def test_without_settings_the_default_ones_hold(text):
    if text is not None:
        settings_path().write_text(text)
    assert read_settings() == YardSettings()


def test_people_are_read():
    settings_path().write_text("admins: [anna]\ngroups:\n  vision: [ben, carla@boxb]\n")
    found = read_settings()
    assert found.admins == ("anna",)
    assert found.groups == {"vision": ("ben", "carla@boxb")}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("admin: [anna]\n", "yard.yaml: admin: Extra inputs are not permitted"),
        ("groups: {vision: 3}\n", r"yard.yaml: groups.vision: Input should be a valid (tuple|list)"),
        ("admins: [", "yard.yaml"),
        ("[1, 2]\n", "yard.yaml"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text, said):
    settings_path().write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_settings()


@pytest.mark.parametrize("half_life", ["30m", "15d", "week"])
def test_a_half_life_is_from_an_hour_to_two_weeks(half_life):
    settings_path().write_text(f"fair_share: {{half_life: {half_life}}}\n")
    with pytest.raises(ConfigError, match=r"yard\.yaml: fair_share\.half_life: .*need a"):
        read_settings()
