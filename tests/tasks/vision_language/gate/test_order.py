"""What a request may hold, and what of it the engine is sent."""

import base64
import io
import json

import cv2
import numpy as np
import pytest
from PIL import Image

from tasks.images.params import PrepareParams
from tasks.vision_language.gate.form import parts, read_form
from tasks.vision_language.gate.order import Rules, read_order
from tasks.vision_language.gate.refusal import Refusal

RED, BLACK = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8))
RULES = Rules("tiny", PrepareParams(), 3, 4_000_000, 100, None)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def url_of(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def asked(*urls: str, **more) -> bytes:
    images = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    content = [*images, {"type": "text", "text": "what?"}]
    return json.dumps({"model": "tiny", "messages": [{"role": "user", "content": content}], **more}).encode()


def seen(body: dict) -> list[np.ndarray]:
    """Return what the engine sees of each image, RGB."""
    urls = [p["image_url"]["url"] for m in body["messages"] for p in m["content"] if p["type"] == "image_url"]
    files = [base64.b64decode(url.removeprefix("data:image/png;base64,")) for url in urls]
    return [cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_UNCHANGED)[..., ::-1] for file in files]


def test_every_image_becomes_upright_rgb_of_bounded_size():
    wide = Image.effect_noise((3000, 2000), 50).convert("RGB")
    turned = Image.new("RGB", (40, 20), "red")
    exif = turned.getexif()
    exif[0x0112] = 6
    files = [
        encoded(wide, "JPEG"),
        encoded(turned, "JPEG", exif=exif),
        encoded(Image.new("CMYK", (30, 10)), "JPEG"),
    ]
    images = seen(read_order(asked(*map(url_of, files)), RULES).body)
    assert [image.shape for image in images] == [(682, 1024, 3), (40, 20, 3), (10, 30, 3)]
    assert all(image.dtype == np.uint8 for image in images)


@pytest.mark.parametrize(
    ("data", "pixel"),
    [
        (encoded(Image.new("RGBA", (8, 8), (255, 0, 0, 0))), (0, 0, 0)),
        (encoded(Image.fromarray(np.full((8, 8), 0x4000, np.uint16))), (64, 64, 64)),
        (encoded(Image.new("L", (8, 8), 9)), (9, 9, 9)),
        (encoded(Image.new("RGB", (8, 8), (7, 8, 9)), "WEBP", lossless=True), (7, 8, 9)),
        (
            encoded(
                Image.new("RGB", (8, 8), "red"),
                "WEBP",
                lossless=True,
                save_all=True,
                append_images=[Image.new("RGB", (8, 8))],
            ),
            (255, 0, 0),
        ),
    ],
    ids=["alpha", "16 bit", "grey", "webp", "animated"],
)
def test_pixels_arrive_exactly(data, pixel):
    (image,) = seen(read_order(asked(url_of(data)), RULES).body)
    assert tuple(image[0, 0]) == pixel


PICTURE = encoded(Image.new("RGB", (8, 8), "red"))
TEXT = [{"role": "user", "content": "what?"}]


@pytest.mark.parametrize(
    ("data", "status", "says"),
    [
        (b"{", 400, "is not JSON"),
        (b"[" * 100_000, 400, "is not JSON"),
        (b"\xff\xfe{", 400, "is not JSON"),
        (b"[]", 400, "found a list"),
        (b"{}", 400, "messages: need a list"),
        (json.dumps({"messages": []}).encode(), 400, "messages"),
        (json.dumps({"messages": [3]}).encode(), 400, r"messages\[0\]"),
        (json.dumps({"messages": [{"role": "tool", "content": "x"}]}).encode(), 400, "roles"),
        (json.dumps({"messages": [{"role": "user", "content": 5}]}).encode(), 400, "found a number"),
        (json.dumps({"messages": [{"role": "user", "content": [{"type": "video_url"}]}]}).encode(), 400, "neither"),
        (json.dumps({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}).encode(), 400, "nothing"),
        (json.dumps({"messages": [*TEXT, {"role": "assistant", "content": "x"}]}).encode(), 400, "need a question"),
        (json.dumps({"messages": TEXT, "tools": []}).encode(), 400, "field 'tools'"),
        (json.dumps({"messages": TEXT, "chat_template": "x"}).encode(), 400, "field 'chat_template'"),
        (json.dumps({"messages": TEXT, "model": "other"}).encode(), 404, "have 'tiny'"),
        (json.dumps({"messages": TEXT, "max_tokens": 0}).encode(), 400, "max_tokens: found 0"),
        (json.dumps({"messages": TEXT, "temperature": "hot"}).encode(), 400, "temperature: found 'hot'"),
        (b'{"messages": [{"role": "user", "content": "x"}], "temperature": NaN}', 400, "temperature"),
        (json.dumps({"messages": TEXT, "stream": 1}).encode(), 400, "stream"),
        (json.dumps({"messages": TEXT, "stream_options": 1}).encode(), 400, "stream_options"),
        (json.dumps({"messages": TEXT, "stop": [1]}).encode(), 400, "stop"),
        (json.dumps({"messages": TEXT, "n": 2}).encode(), 400, "one answer"),
        (asked("/etc/passwd"), 400, "found a path"),
        (asked("file:///etc/passwd"), 400, "found 'file:'"),
        (asked("http://169.254.169.254/latest"), 400, "found 'http:'"),
        (asked("HTTPS://example.org/a.png"), 400, "found 'HTTPS:'"),
        (asked("data:image/png;base64,####"), 400, "not base64"),
        (asked("data:image/png"), 400, "damaged data"),
        (asked(url_of(b"")), 415, "not an image"),
        (asked(url_of(PICTURE[:-20])), 415, "truncated"),
        (asked(url_of(b"%PDF-1.4")), 415, "not an image"),
        (asked(url_of(b"<svg xmlns='http://www.w3.org/2000/svg'/>")), 415, "not an image"),
        (asked(url_of(encoded(Image.new("1", (12_000, 10_000))))), 415, "12000x10000 pixels"),
        (asked(url_of(encoded(Image.new("RGB", (2010, 10))))), 400, "one side at most 200 times as long"),
        (asked(url_of(bytes(5_000_000))), 413, "need at most 4000000"),
        (asked(*[url_of(PICTURE)] * 4), 413, "found 4 images, need at most 3"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_one_sentence(data, status, says):
    with pytest.raises(Refusal, match=says) as caught:
        read_order(data, RULES)
    assert caught.value.status == status
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 500


def test_the_engine_is_sent_what_was_asked_and_nothing_else():
    order = read_order(
        json.dumps(
            {"model": "tiny", "messages": TEXT, "max_completion_tokens": 5, "stop": "x", "stream": True}
        ).encode(),
        RULES,
    )
    content = [{"type": "text", "text": "what?"}]
    assert order.body == {"messages": [{"role": "user", "content": content}], "max_tokens": 5, "stop": ["x"]}
    assert order.stream


def test_file_urls_lead_below_one_folder_only(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a b.png").write_bytes(PICTURE)
    (tmp_path / "secret.png").write_bytes(PICTURE)
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    rules = Rules("tiny", PrepareParams(), 3, 4_000_000, 100, folder)
    (image,) = seen(read_order(asked(f"file://{folder}/a%20b.png"), rules).body)
    assert image.shape == (8, 8, 3)
    for url in (f"file://{tmp_path}/secret.png", f"file://{folder}/../secret.png", f"file://{folder}/link.png"):
        with pytest.raises(Refusal, match="of another place"):
            read_order(asked(url), rules)
    with pytest.raises(Refusal, match="cannot be read"):
        read_order(asked(f"file://{folder}/none.png"), rules)


def form(*fields: tuple[str, bytes]) -> bytes:
    head = b'--BOUND\r\nContent-Disposition: form-data; name="%s"; filename="../../x"\r\nContent-Type: image/png'
    lines = [head % name.encode() + b"\r\n\r\n" + value + b"\r\n" for name, value in fields]
    return b"".join([*lines, b"--BOUND--\r\n"])


KIND = 'multipart/form-data; boundary="BOUND"'


def test_a_form_is_a_question_with_images_after_its_history():
    history = json.dumps([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]).encode()
    data = form(("prompt", b"what?"), ("images", PICTURE), ("images", PICTURE), ("history", history))
    body = read_form(data, KIND, RULES, stream=True).body
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user"]
    assert [part["type"] for part in body["messages"][-1]["content"]] == ["image_url", "image_url", "text"]
    assert len(seen(body)) == 2


def test_the_bytes_of_a_form_arrive_as_they_are():
    value = bytes(range(256)) * 3 + b"\r\n--BOUN\r\n\r\n"
    assert list(parts(form(("a", value), ("b", b"")), KIND)) == [("a", value), ("b", b"")]


@pytest.mark.parametrize(
    ("data", "kind", "status", "says"),
    [
        (form(("prompt", b"x")), "application/json", 415, "multipart/form-data"),
        (form(("prompt", b"x")), "multipart/form-data", 415, "multipart/form-data"),
        (form(("prompt", b"x"))[:-12], KIND, 400, "damaged"),
        (b"", KIND, 400, "damaged"),
        (form(("images", PICTURE)), KIND, 400, "prompt"),
        (form(("prompt", b"\xff")), KIND, 400, "UTF-8"),
        (form(("prompt", b"x"), ("history", b"{")), KIND, 400, "history: is not JSON"),
        (form(("prompt", b"x"), ("history", b"3")), KIND, 400, "history"),
        (form(("prompt", b"x"), ("images", b"no")), KIND, 415, r"images\[0\]: not an image"),
        (form(("prompt", b"x"), ("other", b"no")), KIND, 400, "'other'"),
        (form(("prompt", b"x"), *[("images", PICTURE)] * 4), KIND, 413, "4 images"),
    ],
)
def test_a_bad_form_is_refused_in_one_sentence(data, kind, status, says):
    with pytest.raises(Refusal, match=says) as caught:
        read_form(data, kind, RULES, stream=False)
    assert caught.value.status == status
