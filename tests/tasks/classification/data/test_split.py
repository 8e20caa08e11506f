import csv
import errno
import itertools
import json
import os
import random
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from tasks.base.errors import ConfigError, DatasetError
from tasks.classification.data.digests import known_digests
from tasks.classification.data.partition import assign_groups, part_sizes
from tasks.classification.data.split import PARTS, split_by_class, split_dataset
from tasks.classification.params import SplitParams
from tasks.images.images import content_digest

PARAMS = SplitParams()


def paths(label, n):
    return [Path(f"/data/{label}/{i:04}.png") for i in range(n)]


def save(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8))
    return path


def dataset(root, n=10, classes=("dji", "fpv"), name="{i:03}.png", start=0):
    seed = itertools.count(start)
    return {c: [save(root / c / name.format(i=i, c=c), next(seed)) for i in range(n)] for c in classes}


@pytest.fixture
def source(tmp_path):
    return tmp_path / "source"


def rows(target):
    with (target / "files.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def tree(target):
    return {
        p.relative_to(target).as_posix(): p.read_bytes()
        for p in target.rglob("*.*")
        if p.suffix not in {".csv", ".json"}
    }


# split_by_class


@pytest.mark.parametrize(
    ("n", "sizes"), [(3, [1, 1, 1]), (4, [2, 1, 1]), (10, [7, 2, 1]), (100, [70, 20, 10]), (7, [5, 1, 1])]
)
def test_every_class_keeps_the_ratios_and_is_in_every_part(n, sizes):
    parts = split_by_class({"a": paths("a", n), "b": paths("b", 10)}, PARAMS)
    assert [sum(p.parent.name == "a" for p in parts[part]) for part in PARTS] == sizes


@pytest.mark.parametrize("ratios", [(0.01, 0.98), (0.98, 0.01), (0.01, 0.01), (1 / 3, 1 / 3)])
def test_part_sizes_sum_up_and_leave_no_part_empty(ratios):
    for n in range(3, 200):
        sizes = part_sizes(n, (*ratios, 1 - sum(ratios)))
        assert sum(sizes) == n
        assert min(sizes) >= 1


def test_split_is_disjoint_and_complete():
    images = {"a": paths("a", 33), "b": paths("b", 12)}
    found = [p for part in split_by_class(images, PARAMS).values() for p in part]
    assert sorted(found) == sorted(images["a"] + images["b"])


def test_split_ignores_listing_order():
    images = {"a": paths("a", 50), "b": paths("b", 20)}
    mixed = {label: random.Random(1).sample(images[label], len(images[label])) for label in ("b", "a")}
    assert split_by_class(mixed, PARAMS) == split_by_class(images, PARAMS)


def test_another_seed_gives_another_split():
    images = {"a": paths("a", 50)}
    assert split_by_class(images, PARAMS) != split_by_class(images, SplitParams(seed=1))


def test_a_new_class_leaves_the_split_of_the_others():
    before = split_by_class({"a": paths("a", 50)}, PARAMS)
    after = split_by_class({"a": paths("a", 50), "b": paths("b", 9)}, PARAMS)
    assert [p for p in after["test"] if p.parent.name == "a"] == before["test"]


def test_two_images_are_too_few():
    with pytest.raises(DatasetError, match=r"class 'fpv' has 2 usable image\(s\), need at least 3"):
        split_by_class({"dji": paths("dji", 5), "fpv": paths("fpv", 2)}, PARAMS)


def test_two_groups_are_too_few():
    images = {"fpv": paths("fpv", 6)}
    groups = {p: str(i % 2) for i, p in enumerate(images["fpv"])}
    with pytest.raises(DatasetError, match=r"class 'fpv' has 6 images in 2 group\(s\)"):
        split_by_class(images, PARAMS, groups)


def random_groups(seed, n_groups=8, classes=("a",)):
    rng = random.Random(seed)
    return {f"g{g}": {c: rng.randint(1, 12) for c in classes} for g in range(n_groups)}


def departure(groups, parts, shares):
    cost = 0.0
    for label in {label for counts in groups.values() for label in counts}:
        total = sum(counts.get(label, 0) for counts in groups.values())
        for part, goal in enumerate(part_sizes(total, shares)):
            cost += ((sum(c.get(label, 0) for g, c in groups.items() if parts[g] == part) - goal) / total) ** 2
    return cost


@pytest.mark.parametrize("seed", range(12))
def test_groups_come_about_as_close_to_the_ratios_as_is_possible(seed):
    shares = (0.7, 0.2, 0.1)
    groups = random_groups(seed)
    best = min(
        departure(groups, dict(zip(groups, chosen, strict=True)), shares)
        for chosen in itertools.product(range(3), repeat=len(groups))
        if len(set(chosen)) == 3
    )
    # A departure of one image in a hundred in each of two parts is 2e-4.
    assert departure(groups, assign_groups(groups, shares, seed), shares) <= best + 6e-4


@pytest.mark.parametrize("seed", range(6))
def test_groups_shared_by_classes_leave_every_class_in_every_part(seed):
    groups = random_groups(seed, n_groups=6, classes="abcd")
    parts = assign_groups(groups, (0.7, 0.2, 0.1), seed)
    assert Counter(parts.values()).keys() == {0, 1, 2}


def test_single_images_fill_up_exactly_around_large_groups():
    groups = {"big": {"a": 8}, "mid": {"a": 6}} | {f"s{i:02}": {"a": 1} for i in range(86)}
    parts = assign_groups(groups, (0.7, 0.2, 0.1), 0)
    assert [sum(groups[g]["a"] for g in groups if parts[g] == part) for part in range(3)] == [70, 20, 10]


# split_dataset


def test_the_parts_hold_all_files_by_class_with_their_content(source, target):
    images = dataset(source, n=10)
    report = split_dataset(source, target, PARAMS)
    assert report.counts == {"train": {"dji": 7, "fpv": 7}, "val": {"dji": 2, "fpv": 2}, "test": {"dji": 1, "fpv": 1}}
    assert sorted(tree(target).values()) == sorted(p.read_bytes() for c in images.values() for p in c)
    assert json.loads((target / "report.json").read_text()) == asdict(report)
    for row in rows(target):
        assert (target / row["part"] / row["class"] / row["name"]).read_bytes() == Path(row["source"]).read_bytes()


def test_files_are_hard_links(source, target):
    dataset(source, n=3)
    report = split_dataset(source, target, PARAMS)
    assert (report.n_linked, report.n_copied) == (6, 0)
    assert all((target / r["part"] / r["class"] / r["name"]).samefile(r["source"]) for r in rows(target))


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EPERM, errno.EMLINK])
def test_files_are_copied_where_links_are_refused(source, target, monkeypatch, code):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)
    images = dataset(source, n=3)
    report = split_dataset(source, target, PARAMS)
    assert (report.n_linked, report.n_copied) == (0, 6)
    assert sorted(tree(target).values()) == sorted(p.read_bytes() for c in images.values() for p in c)


def test_the_result_does_not_depend_on_the_place_or_the_workers(tmp_path, target):
    dataset(tmp_path / "one", n=12)
    dataset(tmp_path / "other" / "two", n=12)
    second = tmp_path / "second"
    second.mkdir()
    split_dataset(tmp_path / "one", target, PARAMS, n_workers=1)
    split_dataset(tmp_path / "other" / "two", second, PARAMS, n_workers=3)
    assert tree(target) == tree(second)


def test_equal_names_in_subfolders_lose_no_file(source, target):
    n = itertools.count()
    for label in ("dji", "fpv"):
        for name in ("x/y/a.png", "x/y__a.png", "x__y/a.png", "x__y__a.png", "x/Y__A.png", "b/y__a.png", "b__y/a.png"):
            save(source / label / name, next(n))
    split_dataset(source, target, PARAMS)
    assert len(tree(target)) == 14


def test_long_nested_names_are_shortened(source, target):
    dataset(source, n=4, name="d" * 120 + "/" + "e" * 120 + "{i}.png")
    split_dataset(source, target, PARAMS)
    assert len(tree(target)) == 8


def test_hidden_and_other_files_are_left_out_and_counted(source, target):
    dataset(source, n=3)
    (source / "dji/notes.txt").write_text("x")
    (source / "readme.md").write_text("x")
    save(source / "dji/.hidden.png", 90)
    save(source / ".trash/a.png", 91)
    report = split_dataset(source, target, PARAMS)
    assert (report.n_images, report.n_ignored, report.classes) == (6, 2, ["dji", "fpv"])


def test_symbolic_links_to_files_are_followed(tmp_path, source, target):
    dataset(source, n=3)
    (source / "dji/link.png").symlink_to(save(tmp_path / "elsewhere.png", 77))
    split_dataset(source, target, PARAMS)
    (row,) = [r for r in rows(target) if r["name"] == "link.png"]
    copy = target / row["part"] / "dji/link.png"
    assert not copy.is_symlink()
    assert copy.samefile(tmp_path / "elsewhere.png")


def test_bad_files_are_named_with_the_reason(source, target):
    images = dataset(source, n=10)
    images["dji"][0].write_bytes(b"")
    images["fpv"][1].write_bytes(images["fpv"][1].read_bytes()[:60])
    report = split_dataset(source, target, SplitParams(max_bad_share=0.1))
    assert [file.path for file in report.bad] == ["dji/000.png", "fpv/001.png"]
    assert report.bad[0].reason.startswith("empty file, 0 bytes")
    assert report.n_images == len(rows(target)) == 18


def test_a_jpeg_damaged_in_its_middle_is_left_out_and_named(source, target):
    dataset(source, n=10)
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    data = cv2.imencode(".jpg", noise)[1].tobytes()
    data = data[: len(data) // 2] + bytes(512) + data[len(data) // 2 + 512 :]
    (source / "dji" / "hurt.jpg").write_bytes(data)
    (bad,) = split_dataset(source, target, SplitParams(max_bad_share=0.1)).bad
    assert bad.path == "dji/hurt.jpg"
    assert bad.reason.startswith("damaged JPEG, ")


def test_too_many_bad_files_fail_by_name(source, target):
    images = dataset(source, n=10)
    images["dji"][0].write_bytes(b"")
    with pytest.raises(DatasetError, match=r"1 of 20 files cannot be used.*0\.01.*empty file.*000\.png"):
        split_dataset(source, target, PARAMS)


def test_a_class_left_too_small_by_bad_files_fails(source, target):
    dataset(source, n=3)["fpv"][0].write_bytes(b"")
    with pytest.raises(DatasetError, match=r"class 'fpv' has 2 usable image\(s\)"):
        split_dataset(source, target, SplitParams(max_bad_share=1))


def test_identical_files_stay_on_one_side_and_are_reported(source, target):
    images = dataset(source, n=20)
    for i in (3, 7, 11):
        images["dji"][i].write_bytes(images["dji"][0].read_bytes())
    report = split_dataset(source, target, PARAMS)
    assert report.duplicates == [[f"dji/{i:03}.png" for i in (0, 3, 7, 11)]]
    assert len({r["part"] for r in rows(target) if r["name"] in {"000.png", "003.png"} and r["class"] == "dji"}) == 1
    assert report.leaks == []
    assert sum(report.counts["train"].values()) == 28


def test_identical_files_in_two_classes_are_reported_and_stay_on_one_side(source, target):
    images = dataset(source, n=20)
    images["fpv"][4].write_bytes(images["dji"][2].read_bytes())
    report = split_dataset(source, target, PARAMS)
    assert report.mislabelled == [["dji/002.png", "fpv/004.png"]]
    (digest,) = [d for d, n in Counter(r["digest"] for r in rows(target)).items() if n == 2]
    assert len({r["part"] for r in rows(target) if r["digest"] == digest}) == 1


@pytest.mark.parametrize("seed", range(4))
def test_group_by_a_pattern_keeps_recordings_whole(source, target, seed):
    n = itertools.count()
    for label, sizes in {"dji": (3, 5, 2, 6, 4), "fpv": (4, 4, 4)}.items():
        for recording, size in enumerate(sizes):
            for frame in range(size):
                save(source / label / f"{label}_rec{recording}_{frame}.png", next(n))
    report = split_dataset(source, target, SplitParams(group_by=r"(\w+_rec\d+)_", seed=seed))
    sides = {(r["group"], r["part"]) for r in rows(target)}
    assert len(sides) == len({group for group, _ in sides}) == report.n_groups == 8
    assert all(n > 0 for counts in report.counts.values() for n in counts.values())
    assert report.counts["train"]["dji"] == 14


def test_recordings_that_share_a_file_stay_on_one_side(source, target):
    images = dataset(source, n=60)
    images["dji"][59].write_bytes(images["dji"][0].read_bytes())
    split_dataset(source, target, SplitParams(group_by=r"(\d\d)\d"))
    assert len({r["part"] for r in rows(target) if r["group"] in {"00", "05"}}) == 1
    assert len({(r["group"], r["part"]) for r in rows(target)}) == 6


def test_a_recording_in_two_classes_stays_on_one_side(source, target):
    dataset(source, n=12, name="rec{i}.png")
    report = split_dataset(source, target, SplitParams(group_by=r"rec\d+"))
    sides = {(r["group"], r["part"]) for r in rows(target)}
    assert len(sides) == report.n_groups == 12


def test_group_by_a_csv(tmp_path, source, target):
    images = dataset(source, n=9)
    with (tmp_path / "groups.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("path", "group"))
        for label, found in images.items():
            table.writerows((f"{label}/{p.name}", f"{label}-{i // 3}") for i, p in enumerate(found))
    report = split_dataset(source, target, SplitParams(group_by=str(tmp_path / "groups.csv")))
    assert report.counts["val"] == {"dji": 3, "fpv": 3}
    assert len({(r["group"], r["part"]) for r in rows(target)}) == 6


def test_a_file_without_a_group_fails(source, target):
    dataset(source, n=3)
    with pytest.raises(DatasetError, match=r"6 of 6 image\(s\) have no group by 'rec"):
        split_dataset(source, target, SplitParams(group_by=r"rec\d+"))


def test_a_wrong_group_by_fails(tmp_path, source, target):
    dataset(source, n=3)
    with pytest.raises(ConfigError, match=r"group_by '\(' is no regular expression"):
        split_dataset(source, target, SplitParams(group_by="("))
    with pytest.raises(ConfigError, match=r"No such file.*gone\.csv"):
        split_dataset(source, target, SplitParams(group_by=str(tmp_path / "gone.csv")))
    (tmp_path / "odd.csv").write_text("file,recording\na,b\n")
    with pytest.raises(ConfigError, match=r"found \['file', 'recording'\], need the columns path and group"):
        split_dataset(source, target, SplitParams(group_by=str(tmp_path / "odd.csv")))


@pytest.mark.parametrize("val", ["val", "valid"])
@pytest.mark.parametrize("with_test", [True, False])
def test_data_that_is_split_is_taken_as_it_is(source, target, val, with_test):
    parts = ["train", val, *(["test"] if with_test else [])]
    for i, part in enumerate(parts):
        dataset(source / part, n=i + 1, start=100 * i)
    report = split_dataset(source, target, PARAMS)
    assert report.already_split
    assert [report.counts[part]["dji"] for part in PARTS] == [1, 2, 3 if with_test else 0]
    for row in rows(target):
        assert row["source"].startswith(str(source / {"val": val}.get(row["part"], row["part"])))


def test_folders_of_the_parts_can_be_given(tmp_path, target):
    dataset(tmp_path / "a", n=2)
    dataset(tmp_path / "b", n=1, start=50)
    report = split_dataset({"train": tmp_path / "a", "val": tmp_path / "b"}, target, PARAMS)
    assert [report.counts[part]["fpv"] for part in PARTS] == [2, 1, 0]


def test_leaks_of_split_data_are_reported(source, target):
    dataset(source / "train", n=3)
    dataset(source / "val", n=1)
    report = split_dataset(source, target, SplitParams(group_by=r"00\d"))
    assert ["train/dji/000.png", "val/dji/000.png"] in report.leaks
    assert report.split_groups == ["000"]


def test_train_can_be_the_name_of_a_class(source, target):
    dataset(source, n=3, classes=("bus", "train"))
    assert split_dataset(source, target, PARAMS).classes == ["bus", "train"]


def test_classes_that_differ_between_parts_fail(source, target):
    dataset(source / "train", n=2, classes=("dji", "fpv"))
    dataset(source / "val", n=2, classes=("dji", "mavic"))
    with pytest.raises(DatasetError, match=r"train and .*val differ in the classes \['fpv', 'mavic'\]"):
        split_dataset(source, target, PARAMS)


def test_train_and_test_without_val_fail(source, target):
    dataset(source / "train", n=2)
    dataset(source / "test", n=2)
    with pytest.raises(DatasetError, match=r"found train and test, need also val \(or valid\)"):
        split_dataset(source, target, PARAMS)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ((), "found an empty folder, need one folder of images per class"),
        (("a.png", "b.png"), r"found 2 file\(s\) but no folder, need one folder of images per class"),
        (("dji/a.png",), "found one class, 'dji', need at least 2"),
        (("dji/a.png", "fpv/notes.txt"), "class 'fpv' has 0 images, need at least 1"),
    ],
)
def test_what_is_no_folder_of_classes_fails(source, target, files, message):
    source.mkdir()
    for i, name in enumerate(files):
        save(source / name, i) if name.endswith(".png") else (source / name).parent.mkdir()
    with pytest.raises(DatasetError, match=message):
        split_dataset(source, target, PARAMS)


def test_a_missing_folder_and_a_file_fail(tmp_path, target):
    with pytest.raises(DatasetError, match=r"found nothing, need a folder of images: .*gone$"):
        split_dataset(tmp_path / "gone", target, PARAMS)
    (tmp_path / "file").write_text("x")
    with pytest.raises(DatasetError, match="found a file, need a folder"):
        split_dataset(tmp_path / "file", target, PARAMS)


def test_a_folder_without_permission_fails(as_nobody, target):
    source, call = as_nobody
    dataset(source, n=3)
    (source / "fpv").chmod(0)
    with pytest.raises(DatasetError, match=r"cannot read the folder .*fpv: Permission denied"):
        call(split_dataset, source, target, PARAMS)


def test_every_kind_of_picture_is_accepted(source, target):
    dataset(source, n=4)
    rgb = np.full((9, 9, 3), 100, np.uint8)
    Image.fromarray(rgb[..., 0]).save(source / "dji/grey.png")
    Image.fromarray(rgb).convert("RGBA").save(source / "dji/rgba.png")
    Image.fromarray(rgb).convert("CMYK").save(source / "dji/cmyk.jpg")
    cv2.imwrite(str(source / "dji/deep.png"), rgb.astype(np.uint16) * 256)
    assert split_dataset(source, target, PARAMS).bad == []


def test_the_digest_of_every_file_lies_beside_it(source, target):
    dataset(source)
    split_dataset(source, target, PARAMS)
    files = [target / row["part"] / row["class"] / row["name"] for row in rows(target)]
    assert known_digests(target, files) == [content_digest(path.read_bytes()) for path in files]
