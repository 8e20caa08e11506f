"""Who is still on a device when it is booked for somebody else makes way, if that costs no work."""

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from gpu_pools.bookings.booking import Booking, upcoming
from gpu_pools.bookings.reader import BookingReader
from gpu_pools.bookings.store import BookingStore
from gpu_pools.process import run_setup
from gpu_pools.sharing.settings import SettingsReader, settings_path
from gpu_pools.slots import slot_files
from gpu_pools.slots.lease import SlotProgress, holders, lock_dir
from gpu_pools.worker.monitor.overstays import Overstays, overstayed
from tests.gpu_pools.worker.monitored import new_entry

ZONE = ZoneInfo("UTC")


@pytest.fixture
def book(client):
    """Return a function that books the CPU; the duty does not mind what a device is."""

    def book(begin, hours=2.0, owner="carl"):
        start = datetime.fromtimestamp(int(begin), ZONE)
        booking = Booking("a1", "boxa", "cpu", owner, start, hours * 3600)
        BookingStore(client.call).edit(booking.label, lambda _: [booking], begin)

    return book


@pytest.fixture
def overstays(client, host):
    def clock():
        return host.now

    return Overstays(BookingReader(client, "boxa", clock), host.monitor, SettingsReader(), clock)


def test_a_training_makes_way_when_the_booking_begins_and_goes_back_to_its_queue(prefect, host, book, overstays):
    run_id = prefect.add_run()
    process = host.start(run_id)
    book(host.now + 60)
    overstays.look()
    assert not run_setup.stop_file(run_id).exists()
    host.now += 60
    overstays.look()
    assert run_setup.stop_file(run_id).exists()
    process.kill()
    host.tick_until_exit(process)
    kind, name, text = prefect.state(run_id)
    assert (kind, name) == ("SCHEDULED", "Waiting")
    assert text.startswith("starts again, from its checkpoint if it has one: cpu is booked by carl until ")
    assert host.returned == [run_id]


@pytest.mark.parametrize("owner", ["anna", "anna@boxa"])
def test_the_owner_stays(prefect, host, book, overstays, owner):
    run_id = prefect.add_run()
    host.start(run_id)
    book(host.now, owner=owner)
    overstays.look()
    assert not run_setup.stop_file(run_id).exists()


def test_what_would_lose_its_work_is_left(prefect, host, book, overstays):
    run_id = prefect.add_run(queue="cpu.inference")
    host.start(run_id, queue="cpu.inference")
    book(host.now)
    overstays.look()
    assert not run_setup.stop_file(run_id).exists()


def test_a_yard_may_let_bookings_wait(prefect, host, book, overstays):
    run_id = prefect.add_run()
    host.start(run_id)
    book(host.now)
    settings_path().write_text("bookings: {overstay: wait}\n")
    overstays.look()
    assert not run_setup.stop_file(run_id).exists()
    settings_path().write_text("bookings: {overstay: sometimes}\n")  # what the file said before holds
    overstays.look()
    assert not run_setup.stop_file(run_id).exists()
    settings_path().unlink()
    overstays.look()
    assert run_setup.stop_file(run_id).exists()


def test_a_training_that_is_nearly_done_may_end_but_not_for_ever(prefect, host, book, overstays):
    run_id = prefect.add_run()
    host.start(run_id, slot=True)
    book(host.now)
    slot = lock_dir() / "cpu.training.0.run"
    slot_files.write_progress(slot, run_id, SlotProgress(9, 10, 20.0, host.now))
    assert holders()[0].progress is not None
    overstays.look()
    assert not run_setup.stop_file(run_id).exists()
    host.now += 31
    slot_files.write_progress(slot, run_id, SlotProgress(9, 10, 20.0, host.now))
    overstays.look()
    assert run_setup.stop_file(run_id).exists()


def test_a_booking_that_is_over_disturbs_nobody(prefect, host, book, overstays):
    run_id = prefect.add_run()
    host.start(run_id)
    book(host.now - 7200)
    overstays.look()
    assert not run_setup.stop_file(run_id).exists()


def test_a_run_on_several_devices_is_in_the_way_on_each_of_them():
    start = datetime.fromtimestamp(1000, ZONE)
    (time,) = upcoming([Booking("a1", "boxa", "cuda:2", "carl", start, 3600.0)], 1500.0, 1500.0)
    entry = new_entry("r").but(tag="cuda:0,cuda:2")
    assert overstayed(entry, [time]) == time
    assert overstayed(entry.but(tag="cuda:0,cuda:22"), [time]) is None
