"""A person's way through the pages of Prefect and MLflow, in a real browser, on a real yard with a simulated GPU.

TRAINYARD_PICTURES names a folder for the screenshots; `make pictures` puts them into docs/pictures.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from playwright.sync_api import Browser, Page

from deployments.services.service import free_port
from tests.tasks.vision_language.yard_serve import make_model

pytestmark = [pytest.mark.yard, pytest.mark.timeout(900)]

FLAGS = ("--disable-gpu",)
YARD = str(Path(sys.executable).parent / "yard")
QUICK = {"model": "mobilenet_v3_small", "image_size": 32, "pretrained": False, "precision": "fp32", "n_workers": 1}


class Stack:
    """A stack that `yard up` has started."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_"))}
        self.env |= {"TRAINYARD_HOME": str(home), "TRAINYARD_SIMULATE_GPUS": "1"}
        self.env["TRAINYARD_LOCK_DIR"] = str(home / "locks")

    def yard(self, *words: str) -> str:
        done = subprocess.run([YARD, *words], env=self.env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def status(self) -> str:
        return subprocess.run([YARD, "status"], env=self.env, capture_output=True, text=True, timeout=300).stdout

    def pid(self, run: str) -> int:
        """Return the process of a run, as its worker has it written down."""
        (entry,) = (self.home / "worker").glob(f"*/{run}.json")
        return int(json.loads(entry.read_text())["pid"])

    @property
    def urls(self) -> dict[str, str]:
        return dict(json.loads((self.home / "services.json").read_text()))

    def run(self, run: str) -> dict[str, Any]:
        return dict(httpx.get(f"{self.urls['prefect']}/api/flow_runs/{run}", timeout=60).json())

    def state(self, run: str) -> dict[str, str]:
        return dict(self.run(run)["state"])

    def until(self, true, seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < deadline, f"not within {seconds} s: {what}\n{self.yard('runs')}"
            time.sleep(0.5)


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with tempfile.TemporaryDirectory(prefix="trainyard-ui-", ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o755)  # the user of the database gets in
        made = Stack(Path(folder))
        made.yard("up", "--detach", "--prefect-port", str(free_port()), "--mlflow-port", str(free_port()))
        yield made
        made.yard("down", "--now")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data") / "bands"
    for part, n in (("train", 48), ("val", 12), ("test", 12)):
        for number, name in enumerate(("calm", "loud")):
            (root / part / name).mkdir(parents=True)
            for i in range(n // 2):
                pixels = np.random.default_rng([number, i, n]).integers(0, 60, (32, 32, 3)) + 120 * number
                cv2.imwrite(str(root / part / name / f"{i:02}.png"), pixels.astype(np.uint8))
    return root


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    opened = browser.new_page(viewport={"width": 1400, "height": 1000})
    opened.set_default_timeout(90_000)
    yield opened
    opened.close()


def shoot(page: Page, name: str) -> None:
    folder = os.environ.get("TRAINYARD_PICTURES")
    if folder:
        page.screenshot(path=Path(folder) / f"{name}.png")


def fill(page: Page, label: str, value: str) -> None:
    # The form's labels point to elements that are not there; the field is the next one after the label.
    field = page.locator("label", has_text=label).first.locator("xpath=following::*[self::input or self::textarea][1]")
    field.fill(value)


def test_a_run_started_waited_for_watched_and_looked_at_in_the_browser(stack, dataset, page):
    prefect, mlflow = stack.urls["prefect"], stack.urls["mlflow"]
    words = [f"dataset={dataset}", *(f"train.{key}={json.dumps(value)}" for key, value in QUICK.items())]
    holder = json.loads(
        stack.yard("submit", "train_classifier", *words, "train.num_epochs=400", "--device", "cuda:0", "--json")
    )["id"]
    stack.until(lambda: stack.state(holder)["type"] == "RUNNING", 120, "the holder runs")

    # The deployment, its form, the start.
    page.goto(f"{prefect}/deployments")
    page.get_by_role("link", name="build-classifier").first.wait_for()
    shoot(page, "prefect-deployments")
    found = httpx.post(f"{prefect}/api/deployments/filter", json={}, timeout=60).json()
    texts = page.locator("a[href*='/deployments/deployment/']").all_inner_texts()
    listed = [text for text in texts if text in {d["name"] for d in found}]
    assert listed == sorted(d["name"] for d in found)[:10]  # what people start comes first, then the stages
    deployment = next(d["id"] for d in found if d["entrypoint"].endswith("train_classifier"))
    page.goto(f"{prefect}/deployments/deployment/{deployment}/run")
    fill(page, "Run Name", "from-the-browser")
    fill(page, "dataset", str(dataset))
    shoot(page, "prefect-form")
    fill(page, "Num Epochs", "20")
    fill(page, "Image Size", "32")
    fill(page, "Batch Size", "8")
    fill(page, "Owner", "anna@boxa")
    page.locator("label", has_text="Pretrained").locator("xpath=following::*[@role='switch'][1]").click()
    page.get_by_role("button", name="Submit").click()

    # It waits, and says for whom.
    stack.until(lambda: _named(prefect, "from-the-browser"), 60, "the run is there")
    run = _named(prefect, "from-the-browser")[0]["id"]
    assert json.loads(stack.yard("show", run, "--json"))["owner"] == "anna@boxa"
    stack.until(lambda: "is training" in (stack.state(run).get("message") or ""), 60, "it says why it waits")
    page.goto(f"{prefect}/runs/flow-run/{run}?tab=Details")
    page.get_by_text("cuda:0 is training").first.wait_for()
    shoot(page, "prefect-waiting")

    # It runs once the holder is cancelled; progress moves; it ends with a link to MLflow.
    page.goto("about:blank")  # the page's moving background keeps a core busy
    stack.yard("cancel", holder)
    stack.until(lambda: stack.state(run)["type"] == "RUNNING", 120, "it runs")
    page.goto(f"{prefect}/runs/flow-run/{run}?tab=Artifacts")
    stack.until(lambda: _progress(prefect, run) > 0, 120, "progress moves")
    _open_artifacts(page)
    shoot(page, "prefect-running")
    page.goto("about:blank")
    stack.until(lambda: stack.state(run)["type"] == "COMPLETED", 400, "it ends well")
    assert _progress(prefect, run) == 100
    assert json.loads(stack.yard("show", run, "--json"))["device"] == "cuda:0"
    page.goto(f"{prefect}/runs/flow-run/{run}")
    _open_artifacts(page)
    page.get_by_text("summary", exact=False).first.wait_for()
    shoot(page, "prefect-completed")

    # The epoch curves in MLflow, by the link on Prefect's page.
    links = [a["data"] for a in _artifacts(prefect, run) if a["key"] == "mlflow-run"]
    url = links[0][links[0].index("http") :].split(")")[0].split("]")[0]
    assert url.startswith(mlflow)
    page.goto(url)
    page.get_by_text("loss/train").first.wait_for()  # in the list of metrics
    page.goto(url.replace("?workflowType", "/model-metrics?workflowType"))
    page.wait_for_timeout(8000)  # the curves are drawn some time after the page
    shoot(page, "mlflow-epochs")
    assert page.locator("svg.main-svg, .plotly, canvas").count() > 0


def test_mlflow_opens_on_trainings_without_its_assistant_and_asks_nobody_outside(stack, page):
    mlflow = stack.urls["mlflow"]
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(mlflow)
    page.get_by_role("link", name="classification").first.wait_for()
    page.wait_for_timeout(3000)  # the assistant would open some time after the page
    assert "/#/experiments?workflowType=machine_learning" in page.url
    assert page.get_by_text("Welcome to MLflow Assistant").count() == 0
    assert page.locator("[data-assistant-ui]:visible").count() == 0
    shoot(page, "mlflow-first")
    page.get_by_role("link", name="classification").first.click()
    page.get_by_role("link", name="from-the-browser").first.wait_for()  # its runs, not traces of a chat
    page.wait_for_timeout(2000)
    assert "/runs" in page.url
    shoot(page, "mlflow-experiment")
    assert {httpx.URL(url).host for url in asked if not url.startswith(("data:", "blob:"))} == {"127.0.0.1"}
    assert httpx.get(f"{mlflow}/ajax-api/3.0/mlflow/assistant/config", timeout=60).status_code == 403


def test_a_run_of_three_attempts_shows_the_last_one_and_a_cancelled_one_says_so(stack, dataset, page):
    prefect = stack.urls["prefect"]
    words = [f"dataset={dataset}", *(f"train.{key}={json.dumps(value)}" for key, value in QUICK.items())]
    long = ["train.num_epochs=2000", "--device", "cuda:0", "--name", "three-attempts", "--json"]
    run = json.loads(stack.yard("submit", "train_classifier", *words, *long))["id"]
    for attempt in (2, 3):
        before = _updated(prefect, run)
        stack.until(lambda before=before: _updated(prefect, run) != before, 240, "its table moves")
        os.kill(stack.pid(run), signal.SIGKILL)
        # That it waits in between is over in less than a second.
        stack.until(lambda attempt=attempt: stack.run(run)["run_count"] == attempt, 120, "it goes on")
    before = _updated(prefect, run)
    stack.until(lambda: _updated(prefect, run) != before, 240, "its table moves")
    keys = sorted(found["key"] for found in _artifacts(prefect, run))
    assert keys == ["mlflow-run", "training-epochs", "training-last", "training-progress"]
    page.goto(f"{prefect}/runs/flow-run/{run}?tab=Artifacts")
    _open_artifacts(page)
    shoot(page, "prefect-attempts")
    stack.yard("cancel", run)
    stack.until(lambda: stack.state(run)["type"] == "CANCELLED", 120, "it is cancelled")
    page.goto(f"{prefect}/runs/flow-run/{run}?tab=Logs")
    page.get_by_text("Cancelled").first.wait_for()
    page.wait_for_timeout(3000)
    shoot(page, "prefect-cancelled")


def test_a_question_about_images_is_asked_by_its_form_and_answered_on_the_runs_page(stack, dataset, page, tmp_path):
    model = make_model(tmp_path / "tiny")
    prefect, asked = stack.urls["prefect"], "calm-or-loud"
    found = httpx.post(f"{prefect}/api/deployments/filter", json={}, timeout=60).json()
    deployment = next(each["id"] for each in found if each["name"] == "describe-images")
    page.goto(f"{prefect}/deployments/deployment/{deployment}/run")
    fill(page, "Run Name", asked)
    fill(page, "data", str(dataset / "test"))
    fill(page, "Model", str(model))
    fill(page, "Prompt", "Is this calm or loud?")
    fill(page, "Max Tokens", "4")
    page.wait_for_timeout(1000)  # the form takes it over some time after
    shoot(page, "prefect-describe")
    page.get_by_role("button", name="Submit").click()
    stack.until(lambda: _named(prefect, asked), 60, "the run is there")
    run = _named(prefect, asked)[0]["id"]
    assert stack.run(run)["parameters"]["ask"]["max_tokens"] == 4
    stack.until(lambda: stack.state(run)["type"] in {"COMPLETED", "FAILED", "CRASHED"}, 400, "it ends")
    assert stack.state(run)["type"] == "COMPLETED", stack.state(run)["message"]
    assert "12 of 12" in next(found["data"] for found in _artifacts(prefect, run) if found["key"] == "summary")
    page.goto(f"{prefect}/runs/flow-run/{run}?tab=Artifacts")
    _open_artifacts(page, "summary")


def test_a_yard_that_drains_says_so(stack, dataset):
    words = [f"dataset={dataset}", *(f"train.{key}={json.dumps(value)}" for key, value in QUICK.items())]
    long = ["train.num_epochs=2000", "--device", "cuda:0", "--json"]
    run = json.loads(stack.yard("submit", "train_classifier", *words, *long))["id"]
    stack.until(lambda: stack.state(run)["type"] == "RUNNING", 120, "it runs")
    ending = subprocess.Popen([YARD, "down"], env=stack.env, stdout=subprocess.DEVNULL)
    try:
        stack.until(lambda: "fault: the yard drains since" in stack.status(), 60, "the status says so")
        assert "note: the yard drains since" in stack.yard("submit", "train_classifier", *words)
    finally:
        stack.yard("cancel", run)
        assert ending.wait(120) == 0


def _updated(prefect: str, run: str) -> str:
    """Return when the table of a run was written last, and which one it is."""
    return str([(found["id"], found["updated"]) for found in _artifacts(prefect, run) if found["type"] == "table"])


def _open_artifacts(page: Page, name: str = "training-") -> None:
    page.reload()
    page.get_by_text("Artifacts", exact=True).first.click()
    page.get_by_text(name, exact=False).first.wait_for()
    page.wait_for_timeout(2000)  # bars and tables are filled in after their names


def _named(prefect: str, name: str) -> list[dict]:
    body = {"flow_runs": {"name": {"any_": [name]}}}
    return list(httpx.post(f"{prefect}/api/flow_runs/filter", json=body, timeout=60).json())


def _artifacts(prefect: str, run: str) -> list[dict]:
    body = {"artifacts": {"flow_run_id": {"any_": [run]}}}
    return list(httpx.post(f"{prefect}/api/artifacts/filter", json=body, timeout=60).json())


def _progress(prefect: str, run: str) -> float:
    found = [a["data"] for a in _artifacts(prefect, run) if a["type"] == "progress"]
    return max((float(value) for value in found), default=0.0)
