import json
from dataclasses import asdict

import albumentations as A
import cv2
import numpy as np
import pytest
from PIL import Image

from tasks.base.errors import ConfigError, DatasetError, ImageError
from tasks.classification.data.augment import apply_seeded, augment_dataset, build_transforms
from tasks.classification.data.digests import known_digests, write_digests
from tasks.classification.params import (
    ALL_METHODS,
    AugmentParams,
    BlurParams,
    ColorJitterParams,
    GaussNoiseParams,
    IsoNoiseParams,
)
from tasks.images.images import content_digest, read_rgb


def save(path, seed=0, side=40):
    rgb = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(cv2.GaussianBlur(rgb, (0, 0), 3)).save(path)
    return path


@pytest.fixture
def source(tmp_path):
    root = tmp_path / "split"
    for i, name in enumerate(
        ("train/dji/a.png", "train/dji/b.jpg", "train/fpv/a.png", "val/dji/c.png", "val/fpv/c.png")
    ):
        save(root / name, seed=i)
    (root / "files.csv").write_text("part,class,group,name,source,digest\n")
    return root


def augment(source, folder, **values):
    folder.mkdir()
    return augment_dataset(source, folder, AugmentParams(**values))


def names(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.*") if p.suffix in {".png", ".jpg"})


def contents(folder):
    return {name: (folder / name).read_bytes() for name in names(folder)}


def test_each_training_image_gets_one_copy_per_method_and_stays(source, tmp_path):
    report = augment(source, tmp_path / "out")
    expected = [f"train/{image}__{method}.jpg" for image in ("dji/a", "dji/b", "fpv/a") for method in ALL_METHODS]
    assert names(tmp_path / "out") == sorted(expected + names(source))
    assert (report.original_images, report.augmented_images) == (5, 18)
    assert report.counts == {"train": {"dji": 14, "fpv": 7}, "val": {"dji": 1, "fpv": 1}}
    assert (report.methods_used, report.classes) == (list(ALL_METHODS), ["dji", "fpv"])
    assert json.loads((tmp_path / "out/report.json").read_text()) == asdict(report)


def test_originals_are_links_and_the_list_of_files_is_carried_over(source, tmp_path):
    augment(source, tmp_path / "out")
    assert all((tmp_path / "out" / name).samefile(source / name) for name in names(source))
    assert (tmp_path / "out/files.csv").read_text() == (source / "files.csv").read_text()


def test_every_copy_differs_from_its_original_and_has_its_size(source, tmp_path):
    augment(source, tmp_path / "out")
    original = read_rgb(source / "train/dji/a.png").astype(int)
    for method in ALL_METHODS:
        altered = read_rgb(tmp_path / f"out/train/dji/a__{method}.jpg").astype(int)
        assert altered.shape == original.shape
        assert np.abs(altered - original).mean() > 0.5, method


def test_the_result_does_not_depend_on_the_number_of_workers(source, tmp_path):
    augment(source, tmp_path / "one", n_workers=1)
    augment(source, tmp_path / "many", n_workers=5)
    assert contents(tmp_path / "one") == contents(tmp_path / "many")


def test_a_copy_does_not_depend_on_other_files_or_methods(source, tmp_path):
    augment(source, tmp_path / "all")
    (source / "train/dji/b.jpg").unlink()
    augment(source, tmp_path / "one", methods=("ISONoise",))
    for name, data in contents(tmp_path / "one").items():
        assert data == (tmp_path / "all" / name).read_bytes()


def test_another_seed_and_another_file_give_other_noise(source, tmp_path):
    save(source / "train/fpv/twin.png", seed=2)
    augment(source, tmp_path / "one", methods=("GaussNoise",))
    augment(source, tmp_path / "two", methods=("GaussNoise",), seed=1)
    name = "train/fpv/a__GaussNoise.jpg"
    assert (tmp_path / "one" / name).read_bytes() != (tmp_path / "two" / name).read_bytes()
    twin = tmp_path / "one/train/fpv/twin__GaussNoise.jpg"
    assert (tmp_path / "one" / name).read_bytes() != twin.read_bytes()


def test_equal_stems_and_taken_names_lose_no_file(source, tmp_path):
    for i, name in enumerate(("a.jpg", "A.bmp", "a__CLAHE.jpg", "a__CLAHE.png", "x" * 250 + ".png")):
        save(source / "train/dji" / name, seed=10 + i)
    report = augment(source, tmp_path / "out", methods=("CLAHE", "Sharpen"))
    files = [p for p in (tmp_path / "out").rglob("*") if p.suffix in {".png", ".jpg", ".bmp"}]
    assert len(files) == report.original_images + report.augmented_images == 10 + 2 * 8
    for path in source.rglob("*.*g"):
        assert (tmp_path / "out" / path.relative_to(source)).read_bytes() == path.read_bytes()


def test_chosen_parts_get_copies(source, tmp_path):
    augment(source, tmp_path / "out", parts=("val", "test"), methods=("Sharpen",))
    assert [n for n in names(tmp_path / "out") if "__" in n] == ["val/dji/c__Sharpen.jpg", "val/fpv/c__Sharpen.jpg"]


def test_switched_off_only_the_originals_are_there(source, tmp_path):
    report = augment(source, tmp_path / "out", enabled=False)
    assert names(tmp_path / "out") == names(source)
    assert (report.augmented_images, report.methods_used) == (0, [])


@pytest.mark.parametrize("kind", ["grey", "deep", "rgba", "cmyk", "tiny"])
def test_every_kind_of_picture_is_brought_to_rgb_first(source, tmp_path, kind):
    grey = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    rgba = np.dstack([grey] * 4)
    image = {
        "grey": Image.fromarray(grey),
        "deep": Image.fromarray(grey.astype(np.uint16) * 257),
        "rgba": Image.fromarray(rgba),
        "cmyk": Image.fromarray(rgba, mode="CMYK") if kind == "cmyk" else None,
        "tiny": Image.fromarray(grey[:1, :1]),
    }[kind]
    suffix = "jpg" if kind == "cmyk" else "png"
    image.save(source / f"train/dji/{kind}.{suffix}")
    augment(source, tmp_path / "out")
    for method in ALL_METHODS:
        with Image.open(tmp_path / f"out/train/dji/{kind}__{method}.jpg") as copy:
            assert (copy.mode, copy.size) == ("RGB", image.size)


def test_gaussian_noise_has_the_variance_asked_for():
    transform = build_transforms(AugmentParams(GaussNoise=GaussNoiseParams(variance=(400, 400))))["GaussNoise"]
    flat = np.full((200, 200, 3), 128, np.uint8)
    noise = apply_seeded(transform, flat, 0, "x").astype(float) - 128
    assert noise.std() == pytest.approx(20, rel=0.02)


def test_the_values_of_the_parameters_reach_albumentations():
    transforms = build_transforms(AugmentParams())
    blur, clahe, jitter = transforms["AdvancedBlur"], transforms["CLAHE"], transforms["ColorJitter"]
    assert (blur.blur_limit, blur.sigma_x_limit, blur.sigma_y_limit) == ((7, 13), (7, 13), (7, 13))
    assert (blur.rotate_limit, blur.beta_limit, blur.noise_limit) == ((-90, 90), (0.5, 8), (2, 10))
    assert (clahe.clip_limit, clahe.tile_grid_size) == ((3, 3), (13, 13))
    assert (jitter.brightness, jitter.contrast, jitter.hue) == ((0.5, 1.5), (1, 1), (0, 0))
    assert transforms["GaussNoise"].std_range == pytest.approx((10 / 255, 22.36 / 255), rel=1e-3)
    assert (transforms["ISONoise"].color_shift, transforms["ISONoise"].intensity) == ((0.01, 0.05), (0.2, 0.5))
    assert (transforms["Sharpen"].alpha, transforms["Sharpen"].lightness) == ((0.2, 0.5), (0.5, 1))
    assert all(t.p == 1 for t in transforms.values())


@pytest.mark.parametrize(
    "values",
    [
        {"AdvancedBlur": BlurParams(blur_limit=(4, 8))},
        {"ISONoise": IsoNoiseParams(intensity=(0.5, 0.2))},
        {"GaussNoise": GaussNoiseParams(variance=(500, 100))},
        {"GaussNoise": GaussNoiseParams(variance=(0, 255**2 * 2))},
        {"ColorJitter": ColorJitterParams(hue=(-2, 2))},
    ],
)
def test_a_value_albumentations_refuses_is_an_error(source, tmp_path, values):
    with pytest.raises(ConfigError, match=f"albumentations refuses .* for {next(iter(values))}"):
        augment(source, tmp_path / "out", **values)


def test_an_argument_albumentations_does_not_know_is_an_error(source, tmp_path, monkeypatch):
    class Renamed(A.Sharpen):
        def __init__(self, strength=1.0, p=0.5):
            super().__init__(p=p)

    monkeypatch.setattr(A, "Sharpen", Renamed)
    with pytest.raises(ConfigError, match="for Sharpen"):
        augment(source, tmp_path / "out")


def test_an_unknown_method_is_an_error():
    with pytest.raises(ValueError, match="methods"):
        AugmentParams(methods=("Sharpenn",))


def test_a_bad_image_is_named(source, tmp_path):
    (source / "train/dji/bad.jpg").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"bad\.jpg$"):
        augment(source, tmp_path / "out")


def test_a_folder_that_is_not_split_is_an_error(tmp_path):
    save(tmp_path / "data/dji/a.png")
    with pytest.raises(DatasetError, match=r"found the folders \['dji'\], need train, val and test"):
        augment(tmp_path / "data", tmp_path / "out")


def test_originals_are_never_written_to(source, tmp_path):
    before = {name: ((source / name).stat().st_mtime_ns, data) for name, data in contents(source).items()}
    augment(source, tmp_path / "out")
    assert before == {n: ((source / n).stat().st_mtime_ns, data) for n, data in contents(source).items()}


def test_the_digests_of_copies_are_listed_and_those_of_originals_carried_over(source, tmp_path):
    carried = {name: content_digest((source / name).read_bytes()) for name in names(source)[1:]}
    write_digests(source, carried)
    report = augment(source, tmp_path / "out")
    files = [tmp_path / "out" / name for name in names(tmp_path / "out")]
    known = known_digests(tmp_path / "out", files)
    first = names(source)[0]  # the table does not have it
    wanted = {path: None if str(path).endswith(first) else content_digest(path.read_bytes()) for path in files}
    assert dict(zip(files, known, strict=True)) == wanted
    assert report.augmented_images == len(files) - report.original_images
