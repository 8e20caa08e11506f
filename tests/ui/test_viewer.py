"""The page with a splat inside, in a real browser: the right image, nothing asked for, at home in MLflow's page.

TRAINYARD_PICTURES names a folder for the screenshots.
"""

import base64
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from playwright.sync_api import Browser, Frame, Page

from deployments.stack.stack import free_port, mlflow_service, running
from tasks.splatting.render.cpu_rasterizer import CpuRasterizer
from tasks.splatting.results.viewer import write_viewer
from tests.tasks.splatting.export_scene import ring, splat

pytestmark = [pytest.mark.yard, pytest.mark.timeout(600)]

FLAGS = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
BACKGROUND = (0.1, 0.2, 0.3)
VIEW = {"width": 160, "height": 120, "fx": 150.0, "fy": 155.0, "cx": 75.0, "cy": 62.5}
DONE = """new Promise(done => {
    const viewer = trainyardViewer;
    const look = () => viewer.dirty || viewer.sorter.busy ? setTimeout(look, 20) : done();
    look();
})"""


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    opened = browser.new_page(viewport={"width": 480, "height": 360})
    opened.set_default_timeout(90_000)
    problems: list[str] = []
    opened.on("pageerror", lambda problem: problems.append(str(problem)))
    yield opened
    opened.close()
    assert not problems


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("viewer") / "viewer.html"
    write_viewer(splat(1500, 3), ring(6, **VIEW), path, background=BACKGROUND, title="A ball")
    return path


def shoot(page: Page, name: str) -> None:
    folder = os.environ.get("TRAINYARD_PICTURES")
    if folder:
        page.screenshot(path=Path(folder) / f"{name}.png")


def pixels(png: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1] / 255


def captured(place: Page | Frame, index: int) -> np.ndarray:
    return pixels(base64.b64decode(place.evaluate(f"trainyardViewer.capture({index})").partition(",")[2]))


def drawn(index: int, degree: int = 3, antialiased: bool = False, cameras: Any = None) -> np.ndarray:
    gaussians, camera = splat(1500, degree), (cameras or ring(6, **VIEW))[index]
    background = torch.tensor(BACKGROUND)
    shown = CpuRasterizer()(gaussians, camera, sh_degree=degree, background=background, antialiased=antialiased)
    return np.asarray(shown.colors.clamp(0, 1).numpy())


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape
    return float(-10 * np.log10(np.mean((a - b) ** 2)))


@pytest.mark.parametrize(("degree", "antialiased"), [(0, False), (1, True), (2, False), (3, False)])
def test_the_page_draws_what_the_rasteriser_draws(tmp_path, page, degree, antialiased):
    options = {"background": BACKGROUND, "antialiased": antialiased}
    write_viewer(splat(1500, degree), ring(6, **VIEW), tmp_path / "a.html", **options)
    page.goto((tmp_path / "a.html").as_uri())
    for index in (0, 4):
        assert psnr(captured(page, index), drawn(index, degree, antialiased)) > 40
    assert psnr(captured(page, 0), drawn(4, degree, antialiased)) < 25  # the views differ


def test_an_upright_camera_that_leans_and_is_close_is_drawn_right_too(tmp_path, page):
    lens = {"width": 90, "height": 160, "fx": 80.0, "fy": 80.0, "cx": 60.0, "cy": 50.0}
    cameras = ring(5, radius=0.8, y=-0.4, **lens)
    write_viewer(splat(1500, 3), cameras, tmp_path / "a.html", background=BACKGROUND)
    page.goto((tmp_path / "a.html").as_uri())
    assert psnr(captured(page, 1), drawn(1, cameras=cameras)) > 36


def test_it_opens_with_the_first_camera_and_asks_for_nothing(page, written):
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(written.as_uri())
    page.evaluate(DONE)
    assert [url for url in asked if not url.startswith(("blob:", "data:"))] == [written.as_uri()]
    assert page.evaluate("trainyardViewer.sorter.kind") == "worker"
    assert page.locator("#view").inner_text() == "1 / 6 view_00.jpg"
    assert page.locator("#numbers").inner_text().startswith("1,500 Gaussians, degree 3")
    shown = pixels(page.locator("#picture").screenshot())[60:300]
    assert shown.std() > 0.1
    # The whole height of the image fits, three pixels of the page to one of the camera's.
    wanted = cv2.resize(drawn(0), (480, 360), interpolation=cv2.INTER_CUBIC)[60:300]
    assert psnr(shown, wanted) > 25
    shoot(page, "viewer")


def test_it_works_in_a_frame_that_may_do_nothing_but_run_scripts(page, written):
    page.goto("about:blank")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.evaluate(
        """text => {
            const frame = document.createElement("iframe");
            frame.sandbox = "allow-scripts";
            frame.style = "width: 400px; height: 300px";
            frame.src = URL.createObjectURL(new Blob([text], { type: "text/html" }));
            document.body.append(frame);
            return new Promise(done => { frame.onload = () => done(); });
        }""",
        written.read_text(),
    )
    frame = page.frames[1]
    assert frame.evaluate("origin") == "null"
    assert psnr(captured(frame, 2), drawn(2)) > 40
    assert pixels(page.locator("iframe").screenshot()).std() > 0.05
    assert all(url.startswith(("blob:", "data:")) for url in asked)


REFUSALS = {
    "at once": "window.Worker = class { constructor() { throw new Error('refused'); } };",
    "later": """window.Worker = class {
        constructor() { setTimeout(() => this.onerror(new Event("error")), 30); }
        postMessage() {}
        terminate() {}
    };""",
}


@pytest.mark.parametrize("how", REFUSALS)
def test_it_sorts_by_itself_where_workers_are_refused(page, written, how):
    page.add_init_script(REFUSALS[how])
    page.goto(written.as_uri())
    assert psnr(captured(page, 3), drawn(3)) > 40
    assert page.evaluate("trainyardViewer.sorter.kind") == "main thread"
    assert psnr(captured(page, 5), drawn(5)) > 40


def pose(page: Page) -> dict[str, Any]:
    page.evaluate(DONE)
    return dict(page.evaluate("trainyardViewer.pose"))


def pivot(at: dict[str, Any]) -> np.ndarray:
    return np.array(at["eye"]) + at["distance"] * np.array(at["rows"][6:])


def drag(page: Page, x: int, y: int, **options: Any) -> None:
    page.mouse.move(240, 180)
    page.mouse.down(**options)
    page.mouse.move(240 + x, 180 + y, steps=4)
    page.mouse.up(**options)


def test_the_mouse_turns_shifts_and_comes_nearer(page, written):
    page.goto(written.as_uri())
    first = pose(page)
    assert np.allclose(pivot(first), 0, atol=1e-6)
    drag(page, 90, 0)
    turned = pose(page)
    assert np.linalg.norm(turned["eye"]) == pytest.approx(np.linalg.norm(first["eye"]))
    assert turned["eye"][0] < first["eye"][0] - 1  # the scene follows the mouse to the right
    assert turned["eye"][1] == pytest.approx(first["eye"][1])
    drag(page, 0, 60)
    assert pose(page)["eye"][1] < turned["eye"][1] - 0.5  # y is down: the eye went up
    drag(page, 0, 3000)
    rows = np.reshape(pose(page)["rows"], (3, 3))
    assert np.allclose(rows @ rows.T, np.eye(3), atol=1e-9)
    assert rows[1] @ [0, 1, 0] > 0  # never over the top
    page.keyboard.press("Home")
    assert pose(page) == first
    drag(page, 30, 0, button="right")
    assert pose(page)["eye"][0] < first["eye"][0]
    assert pose(page)["rows"] == first["rows"]
    page.keyboard.press("Home")
    page.mouse.wheel(0, -300)
    page.wait_for_function("d => trainyardViewer.pose.distance < d", arg=0.9 * first["distance"])
    assert np.allclose(pivot(pose(page)), 0, atol=1e-6)


def test_fingers_turn_pinch_and_shift(page, written):
    page.goto(written.as_uri())
    first = pose(page)
    script = """moves => {
        const canvas = document.getElementById("picture");
        canvas.setPointerCapture = () => {};  // of a finger that is none
        for (const [type, pointerId, clientX, clientY] of moves) {
            canvas.dispatchEvent(new PointerEvent(type, { pointerId, clientX, clientY, pointerType: "touch" }));
        }
    }"""
    page.evaluate(script, [["pointerdown", 1, 200, 180], ["pointermove", 1, 240, 180], ["pointerup", 1, 240, 180]])
    turned = pose(page)
    assert turned["distance"] == pytest.approx(first["distance"])
    assert turned["eye"] != first["eye"]
    down = [["pointerdown", 1, 200, 180], ["pointerdown", 2, 280, 180]]
    page.evaluate(script, [*down, ["pointermove", 1, 160, 180], ["pointermove", 2, 320, 180]])
    pinched = pose(page)
    assert pinched["distance"] == pytest.approx(turned["distance"] / 2)
    assert np.allclose(pivot(pinched), pivot(turned), atol=0.1)  # one finger moved after the other
    page.evaluate(script, [["pointermove", 1, 160, 200], ["pointermove", 2, 320, 200]])
    assert pose(page)["distance"] == pytest.approx(pinched["distance"], rel=0.02)
    assert pivot(pose(page))[1] < pivot(pinched)[1] - 0.05  # fingers down, eye up


def test_keys_fly_and_choose_views(page, written):
    page.goto(written.as_uri())
    first = pose(page)
    for key, axis, sign in (("w", 2, 1), ("s", 2, -1), ("d", 0, 1), ("a", 0, -1), ("q", 1, 1), ("e", 1, -1)):
        page.keyboard.press("0")
        page.keyboard.down(key)
        page.wait_for_function(
            "eye => trainyardViewer.pose.eye.some((x, i) => Math.abs(x - eye[i]) > .05)", arg=first["eye"]
        )
        page.keyboard.up(key)
        way = np.reshape(first["rows"], (3, 3)) @ (np.array(pose(page)["eye"]) - first["eye"])
        assert np.argmax(np.abs(way)) == axis
        assert np.sign(way[axis]) == sign
    page.keyboard.press("0")
    page.keyboard.down("ArrowLeft")
    page.wait_for_function("rows => Math.abs(trainyardViewer.pose.rows[6] - rows[6]) > .05", arg=first["rows"])
    page.keyboard.up("ArrowLeft")
    looked = pose(page)
    assert looked["eye"] == pytest.approx(first["eye"])
    assert np.dot(looked["rows"][6:], first["rows"][:3]) < 0  # ahead is now left of where it was
    page.keyboard.press("]")
    page.keyboard.press("]")
    assert page.locator("#view").inner_text() == "3 / 6 view_02.jpg"
    page.locator("#views").fill("5")
    assert page.locator("#view").inner_text() == "6 / 6 view_05.jpg"
    page.keyboard.press("h")
    assert page.locator("#help").is_visible()
    page.locator("#keys").click()
    assert not page.locator("#help").is_visible()
    page.locator("#reset").click()
    assert pose(page) == first


def test_it_goes_on_after_the_driver_has_dropped_it(page, written):
    page.goto(written.as_uri())
    before = captured(page, 1)
    page.evaluate("window.loss = trainyardViewer.painter.gl.getExtension('WEBGL_lose_context'); loss.loseContext()")
    page.get_by_text("The graphics driver has dropped this page").wait_for()
    page.evaluate("loss.restoreContext()")
    page.wait_for_function("() => document.getElementById('message').textContent === ''")
    assert np.array_equal(captured(page, 1), before)


def test_a_browser_without_webgl2_is_told_so(page, written):
    page.add_init_script("HTMLCanvasElement.prototype.getContext = () => null;")
    page.goto(written.as_uri())
    page.get_by_text("This page needs WebGL2").wait_for()


def test_sharp_screens_get_all_their_pixels(browser, written):
    page = browser.new_page(viewport={"width": 300, "height": 200}, device_scale_factor=2)
    page.goto(written.as_uri())
    page.evaluate(DONE)
    page.wait_for_function("() => trainyardViewer.canvas.width === 600 && trainyardViewer.canvas.height === 400")
    page.set_viewport_size({"width": 200, "height": 300})
    page.wait_for_function("() => trainyardViewer.canvas.width === 400 && trainyardViewer.canvas.height === 600")
    page.close()


@pytest.fixture
def tracking(tmp_path: Path) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRAINYARD_HOME", str(tmp_path / "home"))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        with running(mlflow_service(free_port())) as service:
            yield service.url


def test_mlflow_shows_it_and_no_request_leaves_the_machine(tracking, browser, written):
    from tasks.tracking.mlflow_api import client

    store = client(tracking)
    run = store.create_run(store.create_experiment("splatting")).info
    store.log_artifact(run.run_id, str(written), "splat")
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.set_default_timeout(120_000)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{tracking}/#/experiments/{run.experiment_id}/runs/{run.run_id}/artifacts/splat/viewer.html")
    page.wait_for_selector("iframe")
    frame = with_viewer(page)
    page.wait_for_timeout(3000)
    shoot(page, "mlflow-viewer")
    assert frame.evaluate("origin") == "null"
    shown = pixels(frame.locator("#picture").screenshot())
    assert shown.std() > 0.08
    assert np.abs(shown[4:8, -8:-4] - BACKGROUND).max() < 0.02
    home = (f"{tracking}/", "blob:", "data:")
    assert not [url for url in asked if not url.startswith(home)]
    page.close()


def with_viewer(page: Page) -> Frame:
    """Return the frame in which a splat is shown, once there is one."""
    for _ in range(240):
        for frame in page.frames[1:]:
            if frame.evaluate("'trainyardViewer' in window && trainyardViewer.answered > 0"):
                return frame
        page.wait_for_timeout(500)
    raise AssertionError(f"no viewer in {[frame.url for frame in page.frames]}")
