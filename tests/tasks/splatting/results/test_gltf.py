"""The .glb is what the specification of glTF 2.0 and KHR_gaussian_splatting asks for."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tasks.base.errors import DatasetError
from tasks.splatting.render.gaussians import Gaussians
from tasks.splatting.results.gltf import write_gltf
from tests.tasks.splatting.export_scene import looking, rasterizer, splat

NAME = "KHR_gaussian_splatting"
KINDS = {5126: np.dtype("<f4"), 5121: np.dtype("u1")}
WIDTHS = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}


def parse(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the JSON part and every attribute, with all that the container demands asserted."""
    data = path.read_bytes()
    magic, version, length = struct.unpack("<4sII", data[:12])
    assert (magic, version, length) == (b"glTF", 2, len(data))
    n_json, kind = struct.unpack("<I4s", data[12:20])
    assert kind == b"JSON"
    assert n_json % 4 == 0
    document = json.loads(data[20 : 20 + n_json])
    n_bin, kind = struct.unpack("<I4s", data[20 + n_json : 28 + n_json])
    assert kind == b"BIN\0"
    assert n_bin % 4 == 0
    binary = data[28 + n_json :]
    assert len(binary) == n_bin == document["buffers"][0]["byteLength"]
    found = {}
    for name, i in document["meshes"][0]["primitives"][0]["attributes"].items():
        accessor = document["accessors"][i]
        view = document["bufferViews"][accessor["bufferView"]]
        assert view["byteOffset"] % 4 == 0
        kind = KINDS[accessor["componentType"]]
        width = WIDTHS[accessor["type"]]
        assert view["byteLength"] == accessor["count"] * width * kind.itemsize
        values = np.frombuffer(binary, kind, accessor["count"] * width, view["byteOffset"])
        found[name] = values.reshape(accessor["count"], width)
    return document, found


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_the_attributes_are_those_of_the_extension(tmp_path, degree):
    write_gltf(splat(5, degree), tmp_path / "a.glb")
    document, found = parse(tmp_path / "a.glb")
    harmonics = {f"{NAME}:SH_DEGREE_{d}_COEF_{i}" for d in range(degree + 1) for i in range(2 * d + 1)}
    assert set(found) == {"POSITION", "COLOR_0", *(f"{NAME}:{x}" for x in ("ROTATION", "SCALE", "OPACITY")), *harmonics}
    primitive = document["meshes"][0]["primitives"][0]
    assert primitive["mode"] == 0  # points
    assert primitive["extensions"][NAME] == {
        "kernel": "ellipse",
        "colorSpace": "srgb_rec709_display",
        "projection": "perspective",
        "sortingMethod": "cameraDistance",
    }
    assert document["extensionsUsed"] == [NAME]
    assert "extensionsRequired" not in document  # others draw points
    assert document["asset"]["version"] == "2.0"
    assert document["scenes"][document["scene"]]["nodes"] == [0]
    position = document["accessors"][primitive["attributes"]["POSITION"]]
    assert np.allclose(position["min"], found["POSITION"].min(0))
    assert np.allclose(position["max"], found["POSITION"].max(0))
    assert document["accessors"][primitive["attributes"]["COLOR_0"]]["normalized"] is True


def test_values_are_linear_in_range_and_of_length_one(tmp_path):
    gaussians = splat(50, 0)
    gaussians.scales[0] = 200  # e to the 200th is beyond float32
    write_gltf(gaussians, tmp_path / "a.glb")
    found = parse(tmp_path / "a.glb")[1]
    assert np.allclose(found[f"{NAME}:OPACITY"][:, 0], torch.sigmoid(gaussians.opacities), atol=1e-6)
    assert np.allclose(found[f"{NAME}:SCALE"][1:], gaussians.scales[1:].exp(), rtol=1e-6)
    assert all(np.isfinite(values).all() for values in found.values())
    assert np.allclose(np.linalg.norm(found[f"{NAME}:ROTATION"], axis=1), 1, atol=1e-6)
    srgb = (0.5 + 0.28209479 * gaussians.sh0[7, 0, 2].item()) if gaussians.sh0[7, 0, 2] > -1.5 else 0.0
    assert found["COLOR_0"][7, 2] == pytest.approx(255 * ((max(srgb, 0) + 0.055) / 1.055) ** 2.4, abs=0.6)


def test_the_file_shows_the_cameras_picture_with_y_up(tmp_path):
    gaussians = splat(40, 2)
    camera = looking(np.array([2.0, 1.5, 1.0]), np.zeros(3), (0.3, 1.0, 0.2))
    write_gltf(gaussians, tmp_path / "a.glb", [camera])
    values = {name: torch.from_numpy(table.copy()) for name, table in parse(tmp_path / "a.glb")[1].items()}
    rest = [values[f"{NAME}:SH_DEGREE_{d}_COEF_{i}"] for d in (1, 2) for i in range(2 * d + 1)]
    read = Gaussians(
        means=values["POSITION"],
        scales=values[f"{NAME}:SCALE"].log(),
        quats=values[f"{NAME}:ROTATION"][:, [3, 0, 1, 2]],
        opacities=torch.logit(values[f"{NAME}:OPACITY"][:, 0]),
        sh0=values[f"{NAME}:SH_DEGREE_0_COEF_0"][:, None],
        shN=torch.stack(rest, 1),
    )
    eye = camera.center
    up = -camera.world_to_camera[1, :3]
    ahead = camera.world_to_camera[2, :3]
    axes = np.stack([np.cross(up, -ahead), up, -ahead])  # its right, up and back are the file's x, y, z
    there = looking(axes @ eye, axes @ eye + np.array([0, 0, -1.0]), (0, -1, 0))
    before = rasterizer(gaussians, camera, sh_degree=2).colors
    after = rasterizer(read, there, sh_degree=2).colors
    assert float((before - after).abs().max()) < 1e-4


def test_a_splat_of_nothing_is_refused_and_what_is_not_finite_left_out(tmp_path):
    gaussians = splat(2, 0)
    gaussians.scales[0, 0] = float("inf")
    assert write_gltf(gaussians, tmp_path / "a.glb") == 1
    gaussians.scales[1, 0] = float("nan")
    with pytest.raises(DatasetError, match=r"b\.glb: found no Gaussian to write \(2 are not finite\)"):
        write_gltf(gaussians, tmp_path / "b.glb")
