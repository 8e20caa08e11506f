"""Every reader of files that people name, given what never ends."""

import ast
import json
import os
import shutil
import socket
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.base import outside
from tasks.base.config import override, read_parameters
from tasks.base.errors import ConfigError, TrainyardError
from tasks.base.workspace import read_step_info
from tasks.classification.data.sources import SourceImage, group_names
from tasks.images import video
from tasks.images.images import read_rgb
from tasks.inference.params import PredictParams
from tasks.inference.regions import read_two_stages
from tasks.inference.sources import open_source
from tasks.inference.weights import from_file, read_config
from tasks.recognition.coco.files import stored_size
from tasks.recognition.coco.read_coco import read_coco
from tasks.recognition.coco.read_yolo import read_names
from tasks.recognition.index.index_folder import read_index_config
from tasks.recognition.index.models import read_transformers
from tasks.recognition.index.views import read_view_set
from tasks.recognition.meshes.parts import read_part
from tasks.signals.iq_files import find_recordings, read_layout
from tasks.signals.iq_layout import raw_layout, read_samples
from tasks.signals.params import SpectrogramParams
from tasks.signals.spectrogram import open_recording
from tasks.splatting.capture.inputs import adopt, recognise
from tasks.splatting.capture.photos import focal_35mm
from tasks.splatting.capture.pixels import read_stored
from tasks.splatting.capture.point_cloud import read_points
from tasks.splatting.params import PosesParams
from tasks.splatting.poses.colmap_model import read_model
from tasks.splatting.results.ply import read_ply
from tasks.training.state_dicts import read_state_dict

pytestmark = pytest.mark.timeout(60)  # a reader that waits for a pipe never comes back


def read_metadata(path: Path) -> object:
    data = path.with_suffix(".sigmf-data")
    data.write_bytes(bytes(64))
    return read_layout(data)


def read_groups(path: Path) -> object:
    return group_names([SourceImage(path, "a", "a", None, ())], str(path))


def adopt_cameras(path: Path) -> object:
    if path.suffix == ".bin":
        for name in ("cameras.bin", "images.bin"):
            path.with_name(name).write_bytes(bytes(8))
    return list(adopt(path.parent, path.parent / "scene", 100, PosesParams()))


def beside_weights(path: Path) -> object:
    weights = path.with_name("w.pt")
    torch.save({}, weights)
    return from_file(weights, PredictParams(device="cpu"))


PARAMS = SpectrogramParams()
READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "configuration of an index": ("config.json", read_index_config),
    "rendered views": ("parts.json", lambda path: read_view_set(path.parent)),
    "backbone of transformers": ("config.json", lambda path: read_transformers(path.parent)),
    "parameters": ("a.yaml", read_parameters),
    "two stages": ("a.json", read_two_stages),
    "model's configuration": ("config.json", read_config),
    "configuration beside weights": ("config.json", beside_weights),
    "weights": ("a.pt", read_state_dict),
    "weights to predict with": ("a.pt", lambda path: from_file(path, PredictParams(device="cpu"))),
    "table of groups": ("a.csv", read_groups),
    "picture": ("a.jpg", read_rgb),
    "image as stored": ("a.png", read_stored),
    "focal length": ("a.jpg", focal_35mm),
    "SigMF metadata": ("a.sigmf-meta", read_metadata),
    "points": ("a.ply", read_points),
    "splat": ("a.ply", read_ply),
    "mesh": ("a.stl", lambda path: read_part(path, "a")),
    "what a folder was made with": ("made_with.json", lambda path: read_step_info(path.parent)),
    "transforms": ("transforms.json", adopt_cameras),
    "points of a model to adopt": ("points3D.bin", adopt_cameras),
    "boxes": ("a.json", read_coco),
    "names of classes": ("data.yaml", read_names),
    "size of an image": ("a.jpg", stored_size),
    "model": ("cameras.bin", lambda path: read_model(path.parent)),
}
STREAMED: dict[str, tuple[str, Callable[[Path], object]]] = {
    "recording": ("a.iq", lambda path: open_recording(path, PARAMS)),
    "WAV file": ("a.wav", lambda path: open_recording(path, PARAMS)),
    "array": ("a.npy", lambda path: open_recording(path, PARAMS)),
    "samples": ("a.cs16", lambda path: read_samples(path, raw_layout("ci16_le"), 0, 10)),
    "recording to predict": ("a.iq", lambda path: open_source(path, PARAMS)),
    "image to predict": ("a.jpg", lambda path: open_source(path, PARAMS)),
    "recording alone": ("a.iq", find_recordings),
    "scene": ("a.mp4", recognise),
    "video": ("a.mp4", video.probe),
}
TEXTS = ["two stages", "what a folder was made with", "model's configuration", "configuration beside weights"]
TEXTS += ["SigMF metadata", "transforms", "boxes"]


def pipe(path: Path) -> None:
    os.mkfifo(path)


def unix_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        os.chdir(path.parent)  # a socket's address has room for 107 bytes
        bound.bind(path.name)


THINGS: dict[str, Callable[[Path], None]] = {
    "a pipe": pipe,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a socket": unix_socket,
    "a folder": Path.mkdir,
}


@pytest.fixture(autouse=True)
def _back(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("thing", THINGS)
@pytest.mark.parametrize("reader", [*READERS, *STREAMED])
def test_only_plain_files_are_read(tmp_path, reader, thing):
    name, read = (READERS | STREAMED)[reader]
    THINGS[thing](tmp_path / name)
    if thing == "a folder" and reader in {"recording to predict", "image to predict", "recording alone", "scene"}:
        return  # is searched
    with pytest.raises(TrainyardError, match=rf"found {thing}, need a plain file: .*({name}|/dev/zero)"):
        read(tmp_path / name)


@pytest.mark.parametrize("reader", READERS)
def test_a_file_as_large_as_no_memory_is_refused_by_its_size(tmp_path, reader):
    name, read = READERS[reader]
    with (tmp_path / name).open("wb") as file:
        file.truncate(2**40)  # takes no room on the disk
    with pytest.raises(TrainyardError, match=rf"found {2**40} bytes, need at most \d+: .*{name}"):
        read(tmp_path / name)


def test_a_video_of_nothing_is_no_video_at_once(tmp_path):
    with (tmp_path / "a.mp4").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(TrainyardError, match="not a video"):
        video.probe(tmp_path / "a.mp4")


@pytest.mark.parametrize("depth", [100, 3000, 200_000])
@pytest.mark.parametrize("reader", TEXTS)
def test_json_nested_deep_is_refused(tmp_path, reader, depth):
    name, read = READERS[reader]
    (tmp_path / name).write_text('{"global": ' + "[" * depth + "]" * depth + "}")
    with pytest.raises(TrainyardError, match=rf"is nested deeper than 64: .*{name}"):
        read(tmp_path / name)


@pytest.mark.parametrize("depth", [100, 3000, 200_000])
@pytest.mark.parametrize("brackets", ["[]", "{}"])
def test_yaml_nested_deep_is_refused(tmp_path, depth, brackets):
    text = "a: " + brackets[0] * depth + brackets[1] * depth
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"a\.yaml is (nested deeper than 64|not YAML)"):
        read_parameters(tmp_path / "a.yaml")
    with pytest.raises(ConfigError, match="the value in 'a=.* is (nested deeper than 64|not YAML)"):
        override({}, [text.replace(": ", "=", 1)])


def test_nine_lines_that_mean_a_billion_values_are_refused(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    (tmp_path / "a.yaml").write_text("\n".join(lines))
    with pytest.raises(ConfigError, match=r"a\.yaml means more than 1000000 values"):
        read_parameters(tmp_path / "a.yaml")


def test_yaml_that_holds_itself_is_refused(tmp_path):
    (tmp_path / "a.yaml").write_text("train: &t {again: *t}\n")
    with pytest.raises(ConfigError, match=r"a\.yaml holds itself, by \*t"):
        read_parameters(tmp_path / "a.yaml")


@pytest.mark.parametrize("value", ["2024-13-45", "!!bool maybe", "!!timestamp x", "!!int ''", "{[1]: 2}", "!!float x"])
def test_values_that_are_not_what_they_say_are_not_yaml(tmp_path, value):
    (tmp_path / "a.yaml").write_text(f"a: {value}\n")
    with pytest.raises(ConfigError, match=r"a\.yaml is not YAML"):
        read_parameters(tmp_path / "a.yaml")


def test_anchors_and_merges_work(tmp_path):
    (tmp_path / "a.yaml").write_text("split: &s {seed: 3}\naugment: {<<: *s, quality: 90}\n")
    assert read_parameters(tmp_path / "a.yaml")["augment"] == {"seed": 3, "quality": 90}


def test_a_thousand_classes_with_long_names_fit(tmp_path):
    names = [f"class {i} with a name of some length" for i in range(10_000)]
    (tmp_path / "a.yaml").write_text(json.dumps({"class_names": names}))
    assert read_parameters(tmp_path / "a.yaml")["train"]["class_names"] == names


def test_weights_that_unpack_to_more_than_they_are_are_refused(tmp_path):
    torch.save({"a": torch.zeros(10**6)}, tmp_path / "w.pt")
    assert read_state_dict(tmp_path / "w.pt")["a"].shape == (10**6,)
    old, new = zipfile.ZipFile(tmp_path / "w.pt"), zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED)
    with old, new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    with pytest.raises(TrainyardError, match=r"unpacks to 4\d+ bytes from \d{4}, need .* not compressed: .*b\.pt"):
        read_state_dict(tmp_path / "b.pt")


@pytest.mark.skipif(not Path("/proc/kmsg").exists(), reason="no such file here")
def test_a_file_of_the_kernel_that_waits_for_what_is_next_does_not_hold_a_reader(tmp_path):
    (tmp_path / "a.yaml").symlink_to("/proc/kmsg")  # a plain file of 0 bytes, by its status
    with pytest.raises(ConfigError):
        read_parameters(tmp_path / "a.yaml")


def test_what_takes_the_place_of_a_file_after_a_look_is_noticed(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_text("{}")
    look: Any = outside.check_file

    def then_swapped(*args: Any) -> int:
        size: int = look(*args)
        path.unlink()
        os.mkfifo(path)
        return size

    monkeypatch.setattr(outside, "check_file", then_swapped)
    with pytest.raises(ConfigError, match="found a pipe"):
        outside.read_json(path, ConfigError)


def test_a_link_to_a_plain_file_is_read(tmp_path):
    (tmp_path / "b.json").write_text("\ufeff[1]", encoding="utf-8")
    (tmp_path / "a.json").symlink_to("b.json")
    assert outside.read_json(tmp_path / "a.json", ConfigError) == [1]


def test_a_group_table_with_a_field_of_a_megabyte_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text('path,group\n"' + "x" * 2**20 + '",b\n')
    with pytest.raises(ConfigError, match="is no CSV file"):
        read_groups(tmp_path / "a.csv")


def test_the_reader_of_a_folder_names_the_pipe_in_it(tmp_path):
    (tmp_path / "d").mkdir()
    pipe(tmp_path / "d" / "a.iq")
    with pytest.raises(TrainyardError, match="found a pipe"):
        for path in find_recordings(tmp_path / "d"):
            open_recording(path, PARAMS)
    shutil.rmtree(tmp_path / "d")


OPENS = {"read_text", "read_bytes", "fromfile", "imread", "memmap", "VideoCapture", "Reconstruction"}
OPENS_OF = {"Image.open", "torch.load", "np.load", "av.open", "json.load", "yaml.load", "yaml.safe_load", "pd.read_csv"}
OWN = """
    accounts: report steps
    base: file_locks memory outside processes workspace
    base/servers: alive database password
    classification: mlflow_logging models served_model steps
    classification/data: cache disk_need
    classification/grading: answers
    classification/training: events
    geometry: jit
    images: decoding video
    inference: number_format
    recognition/coco: files
    recognition/index: building index_folder served_index
    recognition/detector: served_detector work
    recognition/detector/grading: detections
    run: checkpoint postponed
    signals: iq_layout
    splatting: mlflow_logging
    splatting/capture: frame_table photos pixels
    splatting/demo: scene
    splatting/fit: session training_images
    splatting/poses: colmap_job colmap_progress find known_cameras straighten triangulate
    splatting/results: export videos viewer
    store: folder
    tracking: journal mlflow_api provenance traces unsent
    training: champion precision session state_dicts
    training/parallel: meeting
    trial: facts processes resume
    vision_language/gate: chat_page
    vision_language/describe: classifier_table resume_point
"""
"""Modules that open what a run wrote or the project ships, or give what was opened here, or checked, to a library."""


def opens(path: Path) -> bool:
    """Return whether a module opens files to read by itself."""
    calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    return any(
        isinstance(call, ast.Attribute)
        and (call.attr in OPENS and "outside." not in ast.unparse(call))
        or ast.unparse(call) in OPENS_OF
        for call in calls
    )


def test_no_other_module_opens_files():
    """One that reads files of other people opens them by `tasks.base.outside`; one that reads a run's own is in OWN."""
    tasks = Path(outside.__file__).parents[1]
    rows = [line.strip().partition(": ") for line in OWN.strip().splitlines()]
    known = {tasks / folder / f"{name}.py" for folder, _, names in rows for name in names.split()}
    assert {str(path) for path in tasks.rglob("*.py") if opens(path) and path not in known} == set()
