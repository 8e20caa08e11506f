"""The page holds the splat, whole and on its own; how it draws is tested in a browser, tests/ui/test_viewer.py."""

import base64
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tasks.base.errors import DatasetError
from tasks.splatting.results import viewer
from tasks.splatting.results.viewer import write_viewer
from tests.tasks.splatting.export_scene import ring, splat


class Page(HTMLParser):
    """The texts of a page by the id of their element, and every attribute of every element."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.texts: dict[str, str] = {}
        self.attributes: list[tuple[str, str]] = []
        self.open = ""
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(name, value or "") for name, value in attrs]
        self.open = dict(attrs).get("id") or tag

    def handle_endtag(self, tag: str) -> None:
        self.open = ""

    def handle_data(self, data: str) -> None:
        self.texts[self.open] = self.texts.get(self.open, "") + data


def unpacked(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read the page as the script does, one field after the other."""
    page = Page(path)
    meta = json.loads(page.texts["meta"])
    data = base64.b64decode(page.texts["data"])
    n, degree = meta["count"], meta["degree"]
    assert len(data) == n * (32 + 16 * degree)
    words = np.frombuffer(data, "<u4", 8 * n).reshape(n, 8)
    halves = np.stack([words[:, 3:7] & 65535, words[:, 3:7] >> 16], axis=2).reshape(n, 8) / 65535
    color = np.stack([words[:, 7] & 2047, words[:, 7] >> 11 & 2047, words[:, 7] >> 22], axis=1) / [2047, 2047, 1023]
    found = {
        "means": words[:, :3].copy().view("<f4"),
        "scales": meta["scaleLow"] + meta["scaleSpan"] * halves[:, :3],
        "opacity": halves[:, 3],
        "quats": 2 * halves[:, 4:] - 1,
        "color": meta["colorLow"] + np.array(meta["colorSpan"]) * color,
    }
    if degree:
        rows = np.frombuffer(data, np.uint8, offset=32 * n).reshape(n, 16 * degree)
        most = rows[:, -2:].copy().view("<f2").astype(float)
        found["sh"] = (rows[:, : 3 * ((degree + 1) ** 2 - 1)] / 127.0 - 1) * most
    return meta, found


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_the_page_holds_every_value_within_its_step(tmp_path, degree):
    gaussians = splat(100, degree)
    assert write_viewer(gaussians, ring(3), tmp_path / "a.html") == 0
    meta, found = unpacked(tmp_path / "a.html")
    assert (meta["count"], meta["total"], meta["degree"]) == (100, 100, degree)
    assert np.array_equal(found["means"], gaussians.means.numpy())
    assert np.abs(found["scales"] - gaussians.scales.numpy()).max() < meta["scaleSpan"] / 65535
    assert np.abs(found["opacity"] - torch.sigmoid(gaussians.opacities).numpy()).max() < 1e-5
    unit = torch.nn.functional.normalize(gaussians.quats, dim=1).numpy()
    assert np.abs(found["quats"] - unit).max() < 2e-5
    color = 0.5 + 0.28209479 * gaussians.sh0[:, 0].numpy()
    assert (np.abs(found["color"] - color) < 0.51 * np.array(meta["colorSpan"]) / 1023).all()
    if degree:
        sh = gaussians.shN.reshape(100, -1).numpy()
        step = np.abs(sh).max(1, keepdims=True) / 127
        assert (np.abs(found["sh"] - sh) <= 0.51 * step + 1e-3 * np.abs(sh)).all()


def test_the_page_asks_for_nothing_from_outside(tmp_path):
    write_viewer(splat(3, 1), ring(2), tmp_path / "a.html")
    text = re.sub(r'id="data">[^<]*', "", (tmp_path / "a.html").read_text())
    for word in (
        "http:",
        "https:",
        "//cdn",
        "fetch(",
        "XMLHttpRequest",
        "WebSocket",
        "import(",
        "localStorage",
        "@import",
        "url(",
    ):
        assert word not in text, word
    page = Page(tmp_path / "a.html")
    assert not [pair for pair in page.attributes if pair[0] in ("src", "href", "action", "srcset")]
    policy = dict(page.attributes)["content"]
    assert policy.startswith("default-src 'none'; script-src 'unsafe-inline'")


def test_names_cannot_break_out_of_the_page(tmp_path):
    name = '</script><script>alert("x")</script>'
    write_viewer(splat(3, 0), ring(1), tmp_path / "a.html", title=name)
    text = (tmp_path / "a.html").read_text()
    assert "alert(" not in text.replace("&lt;/script&gt;&lt;script&gt;alert(&quot;x&quot;)", "")
    write_viewer(splat(3, 0), [replace(ring(1)[0], name=name)], tmp_path / "b.html", title="{{data}}")
    page = Page(tmp_path / "b.html")
    assert json.loads(page.texts["meta"])["cameras"][0]["name"] == name
    assert page.texts["title"] == "{{data}}"


def test_cameras_stand_where_they_stood(tmp_path):
    cameras = ring(4, cx=40.0)
    write_viewer(
        splat(3, 0), cameras, tmp_path / "a.html", background=(0.1, 0.2, 0.3), antialiased=True, near_plane=0.5
    )
    meta = unpacked(tmp_path / "a.html")[0]
    for camera, row in zip(cameras, meta["cameras"], strict=True):
        assert np.allclose(np.reshape(row["rotation"], (3, 3)), camera.world_to_camera[:3, :3])
        assert np.allclose(row["position"], camera.center)
        assert (row["name"], row["width"], row["cx"]) == (camera.name, 96, 40)
    assert np.allclose(meta["target"], 0, atol=1e-9)
    assert np.allclose(meta["up"], [0, -1, 0], atol=1e-9)
    assert (meta["background"], meta["antialiased"], meta["near"]) == ([0.1, 0.2, 0.3], True, 0.5)


def test_a_large_splat_keeps_fewer_harmonics_and_a_huge_one_the_gaussians_that_are_seen(tmp_path, monkeypatch):
    gaussians = splat(100, 3)
    gaussians.opacities[7] = float("nan")
    monkeypatch.setattr(viewer, "MAX_HARMONICS_BYTES", 16 * 2 * 99)
    assert write_viewer(gaussians, ring(1), tmp_path / "a.html") == 1
    assert unpacked(tmp_path / "a.html")[0]["degree"] == 2
    monkeypatch.setattr(viewer, "MAX_GAUSSIANS", 10)
    assert write_viewer(gaussians, ring(1), tmp_path / "a.html") == 90
    meta, found = unpacked(tmp_path / "a.html")
    assert (meta["count"], meta["total"], meta["degree"]) == (10, 100, 3)
    seen = torch.sigmoid(gaussians.opacities) * torch.exp(2 / 3 * gaussians.scales.sum(1))
    expected = gaussians.means[seen.nan_to_num(0).argsort(descending=True)[:10].sort().values]
    assert np.array_equal(found["means"], expected.numpy())


@pytest.mark.parametrize(("n", "n_cameras"), [(0, 1), (1, 0)])
def test_a_page_without_anything_to_show_is_refused(tmp_path, n, n_cameras):
    with pytest.raises(DatasetError, match=rf"found {n_cameras} camera\(s\) and {n} Gaussian\(s\)"):
        write_viewer(splat(n, 0), ring(n_cameras), tmp_path / "a.html")


def test_extreme_values_stay_finite(tmp_path):
    gaussians = splat(2, 3)
    gaussians.shN[0] = 0
    gaussians.shN[1] = 1e9
    gaussians.scales[0] = -200
    write_viewer(gaussians, ring(1), tmp_path / "a.html")
    assert all(np.isfinite(values).all() for values in unpacked(tmp_path / "a.html")[1].values())
