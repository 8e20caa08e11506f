"""The estimate of a rendering is near what it takes."""

import pytest

pytest.importorskip("trimesh")

from tasks.base.progress import finish
from tasks.housekeeping.removal import disk_usage
from tasks.recognition.demo.parts import make_demo_parts
from tasks.recognition.disk_need import rendering_need
from tasks.recognition.params import RenderParams
from tasks.recognition.render.rendering import rendering

SMALL = RenderParams(
    view_size=96, train_views=6, val_views=2, test_views=2, distractor_views=2, n_distractors=2,
    scene_size=160, train_scenes=6, val_scenes=2, test_scenes=2, n_workers=1,
)  # fmt: skip


def test_images_take_about_what_was_said(tmp_path):
    make_demo_parts(tmp_path / "meshes")
    n_parts = len(list((tmp_path / "meshes").glob("*.stl")))
    (tmp_path / "out").mkdir()
    report = finish(rendering(tmp_path / "meshes", tmp_path / "out", SMALL))
    need = rendering_need(n_parts, SMALL)
    assert need.what == f"{sum(report.n_views.values())} views and {sum(report.n_scenes.values())} scenes"
    assert 0.5 < need.bytes / disk_usage(tmp_path / "out") < 2
