"""Metrics that must not make a training wait, and batches on their way to a GPU."""

import pytest
import torch

from tasks.training.batches import ahead
from tasks.training.late import Late, Pace

CPU = torch.device("cpu")


def test_a_value_of_the_cpu_is_read_at_once():
    late = Late(CPU)
    assert [late.exchange(torch.tensor(float(n))) for n in (3, 5)] == [3.0, 5.0]


def test_pace_counts_images_and_the_time_that_was_waited_for_data():
    now = iter([0.0, 3.0, 4.0, 4.0, 8.0, 8.0])  # asked; there after 3; trained by 4; there at 4; trained by 8; no more
    pace = Pace()
    batches = iter([(torch.zeros(2), torch.zeros(2)), (torch.zeros(6), torch.zeros(6))])
    assert len(list(pace.waited(batches, lambda: next(now)))) == 2
    assert pace.images_per_s == pytest.approx(1.0)
    assert pace.wait_share == pytest.approx(3 / 8)


def test_an_epoch_without_a_batch_has_no_pace():
    pace = Pace()
    assert list(pace.waited(iter([]), lambda: 0.0)) == []
    assert pace.images_per_s is None
    assert pace.wait_share is None


def test_on_the_cpu_batches_are_passed_on_as_they_are():
    batches = [(torch.zeros(2), torch.zeros(2)), (torch.ones(2), torch.ones(2))]
    same = zip(ahead(iter(batches), CPU), batches, strict=True)
    assert all(mine is theirs for pair in same for mine, theirs in zip(*pair, strict=True))


@pytest.mark.gpu
def test_a_gpu_gets_every_batch_once_in_order_and_whole():
    batches = [(torch.full((64, 3, 50, 50), n, dtype=torch.uint8).pin_memory(), torch.tensor([n])) for n in range(9)]
    seen = []
    for images, labels in ahead(iter(batches), torch.device("cuda")):
        assert images.device.type == "cuda"
        seen.append((images.float().mean(), labels))
        torch.cuda._sleep(2_000_000)  # the next copy runs meanwhile
    assert [(float(mean), int(label)) for mean, label in seen] == [(float(n), n) for n in range(9)]


@pytest.mark.gpu
def test_a_value_of_a_gpu_is_read_once_it_has_arrived():
    late, found = Late(torch.device("cuda")), []
    for n in (1.0, 2.0, 3.0):
        found.append(late.exchange(torch.tensor(n, device="cuda")))
        torch.cuda.synchronize()
    assert found == [0.0, 1.0, 2.0]
