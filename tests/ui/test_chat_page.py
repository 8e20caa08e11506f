"""The page of the gate in a real browser: pictures, a talk that streams, its end, its errors, who may ask.

TRAINYARD_PICTURES names a folder for the screenshots.
"""

import base64
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image, ImageDraw
from playwright.sync_api import Browser, Page

from tests.tasks.vision_language.servers import FakeEngine, fake_engine, gate_before, until

pytestmark = [pytest.mark.yard, pytest.mark.timeout(300)]

FLAGS: tuple[str, ...] = ()
TOKEN = "a-word-of-some-length"
TALK = {
    "What is on the picture?": "A red rectangle and a blue disc on a light ground. They touch in the middle.",
    "Which of them is on the left?": "The red rectangle.",
}
DROP = """([base64, name, type]) => {
    const bytes = Uint8Array.from(atob(base64), c => c.charCodeAt(0));
    const data = new DataTransfer();
    data.items.add(new File([bytes], name, { type }));
    const where = document.getElementById("talk");
    const events = { drop: DragEvent, paste: ClipboardEvent };
    const options = { bubbles: true, cancelable: true, dataTransfer: data, clipboardData: data };
    for (const kind of KINDS) where.dispatchEvent(new events[kind](kind, options));
}"""


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    with fake_engine() as engine:
        yield engine


@contextmanager
def opened(browser: Browser, url: str, **options: Any) -> Iterator[Page]:
    """Open the page; nothing may go wrong in it, and nothing be asked of others."""
    page = browser.new_page(viewport={"width": 900, "height": 700}, **options)
    page.set_default_timeout(20_000)
    problems: list[str] = []
    page.on("pageerror", lambda problem: problems.append(str(problem)))
    page.on("console", lambda said: problems.append(said.text) if "Content Security" in said.text else None)
    page.on("request", lambda asked: problems.append(asked.url) if not asked.url.startswith((url, "data:")) else None)
    page.goto(url)
    yield page
    page.close()
    assert not problems


def picture(size: tuple[int, int] = (320, 240), kind: str = "PNG") -> bytes:
    image = Image.new("RGB", size, "#e8e4da")
    draw = ImageDraw.Draw(image)
    w, h = size
    draw.rectangle((w // 8, h // 4, w // 2, h * 3 // 4), fill="#b3372f")
    draw.ellipse((w // 2, h // 4, w * 7 // 8, h * 3 // 4), fill="#2f5fb3")
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def give(page: Page, data: bytes, name: str = "parts.png", kind: str = "image/png", how: str = "drop") -> None:
    script = DROP.replace("KINDS", f'["{how}"]')
    page.evaluate(script, [base64.b64encode(data).decode(), name, kind])


def ask(page: Page, text: str) -> None:
    page.locator("#prompt").fill(text)
    page.locator("#prompt").press("Enter")


def shoot(page: Page, name: str) -> None:
    if folder := os.environ.get("TRAINYARD_PICTURES"):
        page.screenshot(path=Path(folder) / f"{name}.png")


def sizes_of(message: dict[str, Any]) -> list[tuple[int, int]]:
    urls = [part["image_url"]["url"] for part in message["content"] if part["type"] == "image_url"]
    return [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).size for url in urls]


def test_pictures_go_along_by_drop_paste_and_choice_and_the_history_with_the_next_question(engine, browser):
    with gate_before(engine.url) as (_, url), opened(browser, url) as page:
        page.get_by_role("heading", name="tiny").wait_for()
        give(page, picture())
        page.locator("#shown img").wait_for()
        give(page, picture((100, 50)), how="paste")
        page.locator("#shown li").nth(1).wait_for()
        page.locator("#files").set_input_files({"name": "c.jpg", "mimeType": "image/jpeg", "buffer": picture((64, 64))})
        page.locator("#shown li").nth(2).wait_for()
        page.get_by_label("Leave out c.jpg").click()
        ask(page, "words 3")
        page.get_by_text("w0 w1 w2").wait_for()
        page.get_by_text("3 tokens").wait_for()
        ask(page, "words 2")
        page.get_by_text("2 tokens").wait_for()
        first, second = engine.asked
        assert sizes_of(first["messages"][0]) == [(320, 240), (100, 50)]
        assert [message["role"] for message in second["messages"]] == ["user", "assistant", "user"]
        assert sizes_of(second["messages"][0]) == [(320, 240), (100, 50)]
        assert second["messages"][1]["content"][0]["text"] == "w0 w1 w2 "
        page.get_by_role("button", name="New talk").click()
        ask(page, "words 1")
        page.get_by_text("1 token,").wait_for()
        assert len(engine.asked[-1]["messages"]) == 1


def test_an_answer_grows_and_stop_ends_its_generation(engine, browser):
    with gate_before(engine.url) as (gate, url), opened(browser, url) as page:
        ask(page, "slow")
        page.get_by_text("w3 ").wait_for()
        assert engine.running == gate.slots.taken == 1
        length = len(page.locator(".answer .text").inner_text())
        page.wait_for_function("n => document.querySelector('.answer .text').textContent.length > n", arg=length)
        page.get_by_role("button", name="Stop").click()
        until(lambda: engine.running == gate.slots.taken == 0)
        page.get_by_text(", stopped").wait_for()
        metrics = httpx.get(f"{url}/metrics").text
        assert "trainyard_gate_requests_running 0.0" in metrics
        assert 'trainyard_gate_requests_total{answer="left"} 1.0' in metrics
        ask(page, "words 1")  # what was said until then belongs to the talk
        page.get_by_text("1 token,").wait_for()
        assert engine.asked[-1]["messages"][1]["content"][0]["text"].startswith("w0 w1 ")


def test_a_new_talk_and_a_closed_page_end_the_generation_too(engine, browser):
    with gate_before(engine.url) as (gate, url):
        with opened(browser, url) as page:
            ask(page, "slow")
            page.get_by_text("w3 ").wait_for()
            page.get_by_role("button", name="New talk").click()
            until(lambda: gate.slots.taken == 0)
            assert page.locator("article").count() == 0
            ask(page, "slow")
            page.get_by_text("w3 ").wait_for()
        until(lambda: gate.slots.taken == 0)


def test_who_is_refused_reads_why_and_can_ask_again(engine, browser):
    with gate_before(engine.url, limit=1) as (gate, url), opened(browser, url) as page, opened(browser, url) as other:
        ask(other, "slow")
        other.get_by_text("w1 ").wait_for()
        ask(page, "words 2")
        page.get_by_text("The server is busy. Try again in 5 seconds.").wait_for()
        other.get_by_role("button", name="Stop").click()
        until(lambda: gate.slots.taken == 0)
        page.get_by_role("button", name="Ask again").click()
        page.get_by_text("2 tokens").wait_for()
        assert page.locator(".fault").count() == 0
        give(page, b"no picture", "a.png")
        page.locator("#shown li").wait_for()
        ask(page, "words 1")
        page.get_by_text("messages[2].content[0]: ").wait_for()
        ask(page, "error")  # amid the stream; the question that failed is no part of the talk
        page.get_by_text("out of memory").wait_for()
        assert len(engine.asked[-1]["messages"]) == 3
        give(page, b"words", "a.txt", "text/plain")
        page.get_by_text("Found a.txt, need pictures.").wait_for()


def test_a_server_that_is_gone_is_a_sentence(engine, browser):
    with gate_before(engine.url) as (_, url):
        page = browser.new_page()
        page.goto(url)
        page.get_by_role("heading", name="tiny").wait_for()
    page.locator("#prompt").fill("words 1")
    page.get_by_role("button", name="Ask").click()
    page.get_by_text("The server does not answer").wait_for()
    page.close()


def test_the_token_is_asked_for_and_kept_in_the_tab_alone(engine, browser, tmp_path):
    file = tmp_path / "token"
    file.write_text(TOKEN)
    file.chmod(0o600)
    with gate_before(engine.url, token_file=file) as (_, url), opened(browser, url) as page:
        page.get_by_text("This server asks for its token.").wait_for()
        page.locator("#token").fill("another-word-of-some-length")
        page.locator("#token").press("Enter")
        page.get_by_text("This token is not that of the server.").wait_for()
        page.locator("#token").fill(TOKEN)
        page.locator("#token").press("Enter")
        page.get_by_role("heading", name="tiny").wait_for()
        ask(page, "words 2")
        page.get_by_text("2 tokens").wait_for()
        assert TOKEN not in page.evaluate("JSON.stringify(localStorage) + document.cookie + location.href")
        page.reload()
        page.get_by_role("heading", name="tiny").wait_for()


def test_what_the_model_says_stays_text(engine, browser):
    with gate_before(engine.url) as (_, url), opened(browser, url) as page:
        text = "<img src=x onerror=alert(1)><b>bold</b>"
        ask(page, text)
        page.locator(".question .text").get_by_text(text).wait_for()
        page.get_by_text("1 token,").wait_for()
        assert page.locator("main b, main img").count() == 0
        policy = httpx.get(url).headers["content-security-policy"]
        assert "'unsafe" not in policy


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_light_or_dark_as_the_machine_is_and_as_people_switch_it(engine, browser, scheme):
    def light() -> float:
        return sum(map(int, page.evaluate("getComputedStyle(document.body).backgroundColor").strip("rgb()").split(",")))

    with gate_before(engine.url) as (_, url), opened(browser, url, color_scheme=scheme) as page:
        assert (light() > 384) == (scheme == "light")
        give(page, picture((640, 400)))
        page.locator("#shown img").wait_for()
        for question, answer in TALK.items():
            engine.says = answer
            ask(page, question)
            page.get_by_text(answer).wait_for()
        engine.says = ""
        if scheme == "light":
            shoot(page, "chat-page")
        page.locator("#theme").click()
        assert (light() > 384) == (scheme == "dark")
        page.reload()
        assert (light() > 384) == (scheme == "dark")


def test_large_photographs_are_made_smaller_before_they_are_sent(engine, browser):
    data = os.urandom(3000 * 1500 * 3)
    file = io.BytesIO()
    Image.frombytes("RGB", (3000, 1500), data).save(file, "JPEG")
    sent: list[int] = []
    with gate_before(engine.url) as (_, url), opened(browser, url) as page:
        page.on("request", lambda asked: sent.append(len(asked.post_data_buffer or b"")))
        page.locator("#files").set_input_files({"name": "a.jpg", "mimeType": "image/jpeg", "buffer": file.getvalue()})
        page.locator("#shown img").wait_for()
        ask(page, "words 1")
        page.get_by_text("1 token,").wait_for()
        assert sizes_of(engine.asked[0]["messages"][0]) == [(1024, 512)]
        assert max(sent) < len(file.getvalue())


def test_a_narrow_screen_shows_all_of_it(engine, browser):
    with gate_before(engine.url) as (_, url), opened(browser, url) as page:
        page.set_viewport_size({"width": 360, "height": 640})
        ask(page, "words 60")
        page.get_by_text("60 tokens").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
