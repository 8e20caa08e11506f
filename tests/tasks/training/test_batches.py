"""Batches and labels of a split folder."""

import numpy as np
import pytest
import torch

from tasks.base.errors import ConfigError, DatasetError
from tasks.classification.data.samples import check_num_classes, order_classes, read_classes, read_subset
from tasks.training.batches import MEAN, STD, Batches, Normalise, batch_indices


def folder(tmp_path, files):
    for name in files:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tmp_path


def numbered(n, batch_size, **options):
    return Batches(lambda i: np.full((2, 2, 3), i, np.uint8), list(range(n)), batch_size, **options)


def labels_of(batches, epoch, start=0):
    return [y.tolist() for _, y in batches.epoch(epoch, start)]


def test_classes_are_the_sorted_training_folders_and_labels_their_numbers(tmp_path):
    root = folder(tmp_path, ["train/b/1.png", "train/a/1.jpg", "train/a/note.txt", "train/a/0.png", "train/.x/1.png"])
    classes = read_classes(root)
    assert classes == ["a", "b"]
    samples = read_subset(root, "train", classes)
    assert [p.name for p in samples.paths] == ["0.png", "1.jpg", "1.png"]
    assert samples.labels == [0, 0, 1]


@pytest.mark.parametrize("files", [["val/a/1.png"], ["train/a/1.png"]], ids=["no train", "one class"])
def test_fewer_than_two_classes_is_an_error(tmp_path, files):
    with pytest.raises(DatasetError, match="train"):
        read_classes(folder(tmp_path, files))


def test_a_part_with_another_class_or_without_images_is_an_error(tmp_path):
    root = folder(tmp_path, ["train/a/1.png", "train/b/1.png", "val/c/1.png", "test/a/note.txt"])
    with pytest.raises(DatasetError, match=r"\['c'\]"):
        read_subset(root, "val", ["a", "b"])
    with pytest.raises(DatasetError, match="found no image in .*test"):
        read_subset(root, "test", ["a", "b"])


def test_a_wrong_number_of_classes_names_both_and_the_classes(tmp_path):
    with pytest.raises(ConfigError, match=r"num_classes is 3, .* has 2 classes: a, b"):
        check_num_classes(3, ["a", "b"], tmp_path)
    check_num_classes(None, ["a", "b"], tmp_path)


def test_class_names_give_the_order_and_must_be_the_ones_found(tmp_path):
    assert order_classes(["a", "b"], ("b", "a"), tmp_path) == ["b", "a"]
    with pytest.raises(ConfigError, match=r"not in the data \['c'\], not named \['b'\]"):
        order_classes(["a", "b"], ("a", "c"), tmp_path)


def test_the_order_is_a_function_of_seed_and_epoch():
    first = labels_of(numbered(20, 6, shuffle=True, seed=1), 3)
    assert first == labels_of(numbered(20, 6, shuffle=True, seed=1, n_workers=1), 3)
    assert first != labels_of(numbered(20, 6, shuffle=True, seed=1), 4)
    assert sorted(sum(first, [])) == list(range(20))


def test_starting_at_a_batch_gives_the_rest_of_the_epoch():
    batches = numbered(20, 6, shuffle=True)
    assert labels_of(batches, 2, start=2) == labels_of(batches, 2)[2:]


def test_a_single_left_over_joins_the_batch_before():
    assert [len(b) for b in batch_indices(9, 4, range(9))] == [4, 5]
    assert [len(b) for b in batch_indices(10, 4, range(10))] == [4, 4, 2]
    assert [len(b) for b in batch_indices(3, 1, range(3))] == [1, 1, 1]
    assert [len(b) for b in batch_indices(1, 4, range(1))] == [1]
    assert len(numbered(9, 4)) == 2


def test_no_batch_for_evaluation_is_larger_than_asked_for():
    batches = numbered(9, 4, join_last=False)
    assert [len(labels) for labels in labels_of(batches, 0)] == [4, 4, 1]
    assert len(batches) == 3


def test_images_come_channels_last_and_in_the_order_of_the_labels():
    images, labels = next(numbered(4, 4).epoch(0))
    assert images.shape == (4, 3, 2, 2)
    assert images.stride()[1] == 1
    assert images[:, 0, 0, 0].tolist() == labels.tolist() == [0, 1, 2, 3]


def test_an_unreadable_image_ends_the_epoch_with_its_error():
    def read(i):
        raise DatasetError(f"image {i}")

    with pytest.raises(DatasetError, match="image 0"):
        list(Batches(read, [0, 1], 1).epoch(0))


def test_threads_are_as_many_as_the_cores_this_process_may_use(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2})
    assert Batches(lambda i: np.zeros((8, 8, 3), np.uint8), [0, 1], 2)._n_workers == 3


@pytest.mark.parametrize("format", [torch.channels_last, torch.contiguous_format])
def test_pixels_become_what_the_pretrained_weights_expect(format):
    images = torch.randint(0, 256, (3, 3, 5, 7), dtype=torch.uint8).contiguous(memory_format=format)
    mean, std = (torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1) for values in (MEAN, STD))
    normalise = Normalise(torch.device("cpu"))
    normalise(images[..., :4])  # another width before
    found = normalise(images)
    torch.testing.assert_close(found.double(), (images / 255.0 - mean) / std, rtol=0, atol=1e-6)
    assert found.is_contiguous(memory_format=torch.channels_last)
