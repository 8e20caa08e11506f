"""Where hosts share no disk, the store keeps of a run what a host keeps of it."""

import time

import pytest

from tasks.housekeeping.params import KeepParams
from tasks.housekeeping.rounds import go_round
from tasks.store.arrivals import run_folder
from tasks.store.setting import SHARED_DISK
from tests.tasks.store.conftest import mlflow_url, objects  # noqa: F401  # fixtures

pytestmark = pytest.mark.yard
HOUR = 3600.0


def test_what_the_store_has_of_a_run_goes_with_its_folder(yard, objects, monkeypatch):  # noqa: F811
    monkeypatch.setenv("MLFLOW_TRACKING_URI", objects.url)
    monkeypatch.setenv(SHARED_DISK, "no")
    gone, stays = yard.run(keep="12h"), yard.run(keep="2d")
    for run_id in (gone, stays):
        run_folder(objects, run_id).send(run_id)
    for dry_run, left in ((True, 3), (False, 0)):
        receipt = go_round(KeepParams(records=None), time.time() + 13 * HOUR, dry_run=dry_run)
        assert len(run_folder(objects, gone).known()) == left, (receipt.notes, receipt.kept)
    assert len(run_folder(objects, stays).known()) == 3
    assert not yard.there(gone)
    assert yard.there(stays)
