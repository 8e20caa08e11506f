"""The home is closed to others, or as the setting says."""

import os
import shutil
import stat

import pytest

from tasks.base.errors import ConfigError
from tasks.base.home import make_home


@pytest.mark.parametrize(("setting", "mode"), [(None, 0o750), ("", 0o750), ("0700", 0o700), ("755", 0o755)])
def test_the_home_is_closed_to_others_or_as_the_setting_says(tmp_path, monkeypatch, setting, mode):
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path / "a" / "home"))
    monkeypatch.delenv("TRAINYARD_HOME_MODE", raising=False)
    if setting is not None:
        monkeypatch.setenv("TRAINYARD_HOME_MODE", setting)
    for umask in (0o077, 0o000):
        before = os.umask(umask)
        try:
            make_home()
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / "a" / "home").stat().st_mode) == mode
        shutil.rmtree(tmp_path / "a")


def test_a_home_that_is_there_is_closed_when_asked_and_never_opened(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path))
    monkeypatch.delenv("TRAINYARD_HOME_MODE", raising=False)
    for before, after in ((0o777, 0o750), (0o2775, 0o2750), (0o700, 0o700), (0o1777, 0o1777)):
        tmp_path.chmod(before)
        make_home()
        assert stat.S_IMODE(tmp_path.stat().st_mode) == before
        make_home(close=True)
        assert stat.S_IMODE(tmp_path.stat().st_mode) == after


@pytest.mark.parametrize("word", ["rwx", "0", "0050", "07777", "9", "0o750"])
def test_a_mode_that_is_none_is_refused(monkeypatch, word):
    monkeypatch.setenv("TRAINYARD_HOME_MODE", word)
    with pytest.raises(ConfigError, match="need a mode such as 0750"):
        make_home()
