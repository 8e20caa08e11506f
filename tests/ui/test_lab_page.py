"""A browser of another machine, in front of a yard behind the proxy: it logs in to both pages, and they live."""

import pytest
from playwright.sync_api import Error

from tests.deployments.closed_yard import SMALL, write_images
from tests.deployments.lab.proxied import ANNA, proxied_yard

pytestmark = pytest.mark.yard
FLAGS = ()


@pytest.fixture(scope="module")
def proxied(tmp_path_factory):
    with proxied_yard(tmp_path_factory.mktemp("ca")) as (yard, person):
        data = write_images(tmp_path_factory.mktemp("data") / "images")
        words = ("submit", "classification", f"data={data}", *SMALL, "--device", "cpu", "--name", "seen", "--watch")
        yard.yard(*words, **person)
        yield person


def test_prefect_s_page_asks_for_the_password_and_shows_runs_and_events_as_they_come(proxied, browser):
    context = browser.new_context(ignore_https_errors=True)  # the authority is not among the browser's own
    page, address = context.new_page(), proxied["PREFECT_API_URL"].removesuffix("/api")
    sockets = []
    page.on("websocket", lambda socket: sockets.append(socket.url))
    page.goto(f"{address}/runs")
    page.locator("input[type=password]").fill(proxied["PREFECT_API_AUTH_STRING"])
    page.get_by_role("button", name="Login").click()
    page.get_by_text("seen").first.wait_for()
    page.goto(f"{address}/events")
    page.get_by_text("Flow run completed").first.wait_for()
    assert all(url.startswith("wss://") for url in sockets)
    context.close()


def test_mlflow_s_page_asks_for_an_account_and_shows_runs(proxied, browser):
    address = proxied["MLFLOW_TRACKING_URI"]
    stranger = browser.new_context(ignore_https_errors=True)
    with pytest.raises(Error, match="ERR_INVALID_AUTH_CREDENTIALS"):  # asked for, and not given
        stranger.new_page().goto(address)
    stranger.close()
    anna = {"username": "anna", "password": ANNA}
    context = browser.new_context(ignore_https_errors=True, http_credentials=anna)
    page, refused = context.new_page(), []
    page.on("response", lambda answer: refused.append(answer.url) if answer.status in {401, 403} else None)
    page.goto(address)
    page.get_by_text("classification", exact=True).first.click()
    page.get_by_text("seen").first.wait_for()
    assert not [url for url in refused if "/ajax-api/" in url and "assistant" not in url]
    context.close()
