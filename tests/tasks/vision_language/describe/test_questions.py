"""Data become questions: images, rows of a table, clips of a video."""

import os
from pathlib import Path

import av
import numpy as np
import pytest

from tasks.base.errors import ConfigError, DatasetError
from tasks.images.params import PrepareParams
from tasks.vision_language.describe.asking import asking
from tasks.vision_language.describe.loading import loaded
from tasks.vision_language.describe.params import AnswerGradeParams, ReadParams
from tasks.vision_language.describe.questions import filled, find_questions

READ, GRADE = ReadParams(), AnswerGradeParams()


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Return a video of 2 s with 20 images, each brighter than the one before."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(20):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 10 * number, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def brightness(one):
    return [round(float(image.mean()) / 10) for image in one.images]


def test_each_image_of_a_folder_is_a_question_with_its_folder_as_right_answer(pictures):
    found = find_questions(pictures, "Is {name} a {folder}?", READ, AnswerGradeParams(by_folder=True))
    assert [question.prompt for question in found[:2]] == ["Is 0.png a cat?", "Is 1.png a cat?"]
    assert [question.right for question in found] == ["cat"] * 3 + ["dog"] * 3
    assert len({question.key for question in found}) == 6
    assert find_questions(pictures / "cat" / "0.png", "What?", READ, GRADE)[0].right is None


def test_each_row_of_a_table_is_a_question_over_its_images(pictures):
    table = pictures / "t.csv"
    table.write_text("images,part,what\ncat/0.png;cat/1.png,bolt,cat\n,nut,dog\n")
    first, second = find_questions(table, "How many {part}s?", READ, AnswerGradeParams(column="what"))
    assert [path.name for path in first.images] == ["0.png", "1.png"]
    assert (first.prompt, first.right, first.values) == ("How many bolts?", "cat", {"part": "bolt", "what": "cat"})
    assert second.error == f"found no image in column images, need at least one: row 2 of {table}"


def test_what_is_not_there_is_named(pictures, tmp_path):
    with pytest.raises(ConfigError, match=r"found \{part\} in ask.prompt, need one of name, folder of an image"):
        find_questions(pictures, "What {part}?", READ, GRADE)
    with pytest.raises(ConfigError, match="found grade.column=what for images, need a table"):
        find_questions(pictures, "What?", READ, AnswerGradeParams(column="what"))
    (tmp_path / "t.csv").write_text("image,part\na.png,b\n")
    with pytest.raises(ConfigError, match="found grade.column=what, need one of the columns image, part"):
        find_questions(tmp_path / "t.csv", "What?", READ, AnswerGradeParams(column="what"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="found no image among 0 file"):
        find_questions(tmp_path / "empty", "What?", READ, GRADE)
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(DatasetError, match="not a video, or its beginning is damaged"):
        find_questions(tmp_path / "a.txt", "What?", READ, GRADE)


def test_a_row_that_leads_out_of_the_allowed_folders_is_not_asked(pictures, monkeypatch):
    monkeypatch.setenv("TRAINYARD_ALLOWED_ROOTS", str(pictures))
    (pictures / "t.csv").write_text("image\ncat/0.png\n/etc/passwd\n")
    inside, outside = find_questions(pictures / "t.csv", "What?", READ, GRADE)
    assert inside.error is None
    assert "/etc/passwd leads outside the allowed roots" in outside.error
    assert outside.images == ()


def test_names_that_are_no_text_are_asked_about_in_escapes(pictures, scripted):
    path = Path(os.fsdecode(os.fsencode(pictures) + b"/\xff"))
    path.mkdir()
    (pictures / "cat" / "0.png").rename(path / "a.png")
    (question,) = find_questions(path, "Is it {folder}?", READ, AnswerGradeParams(by_folder=True))
    assert (question.prompt, question.right) == ("Is it \\xff?", "\\xff")
    asker = scripted("yes")
    ((talk,),) = asking([question], asker, None, PrepareParams())
    assert talk.answer.text == "yes"


def test_braces_of_json_are_no_placeholders():
    prompt = 'Answer as {"a": {"b": 1}} on {part}, not {{part}}'
    assert filled(prompt, {"part": "x"}, "t") == 'Answer as {"a": {"b": 1}} on x, not {part}'


def test_a_video_is_one_question_over_images_spread_over_it(film):
    (question,) = find_questions(film, "What happens?", ReadParams(frames=4), GRADE)
    (one,) = loaded([question], PrepareParams())
    assert brightness(one) == [2, 7, 12, 17]


def test_a_video_is_a_question_for_each_clip(film):
    questions = find_questions(film, "What happens?", ReadParams(frames=2, clip_s=0.8), GRADE)
    shown = [brightness(one) for one in loaded(questions, PrepareParams())]
    assert shown == [[1, 5], [9, 13], [16, 18]]
    assert [brightness(one) for one in loaded(questions[1:2], PrepareParams())] == [[9, 13]]


def test_more_moments_than_images_show_each_image_once(film):
    (question,) = find_questions(film, "What happens?", ReadParams(frames=100), GRADE)
    (one,) = loaded([question], PrepareParams())
    assert brightness(one) == list(range(20))


def test_of_a_video_that_is_cut_off_the_rest_is_named(film, tmp_path):
    questions = find_questions(film, "What happens?", ReadParams(frames=1, clip_s=0.5), GRADE)
    late = [question.__class__(9, question.images, "What?", times=(7.0,)) for question in questions[:1]]
    *good, bad = loaded([*questions, *late], PrepareParams())
    assert all(one.error is None for one in good)
    assert bad.error == f"found no image at 7.0 s, where the video is cut off: {film}"


def test_a_damaged_image_is_named_and_the_others_are_read(pictures):
    (pictures / "cat" / "1.png").write_bytes(b"\x89PNG nothing")
    found = list(loaded(find_questions(pictures, "What?", READ, GRADE), PrepareParams()))
    assert [one.error is None for one in found] == [True, False, True, True, True, True]
    assert str(pictures / "cat" / "1.png") in found[1].error


def test_images_are_prepared_as_those_of_requests(pictures, tmp_path):
    """The gate sends a PNG to its engine: the same pixels."""
    import base64

    import cv2

    from tasks.vision_language.gate.pictures import prepared

    path = tmp_path / "large.jpg"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (1500, 2600, 3), dtype=np.uint8))
    (one,) = loaded(find_questions(path, "What?", READ, GRADE), PrepareParams())
    url = prepared(path.read_bytes(), PrepareParams(), "a", 2**26)
    png = np.frombuffer(base64.b64decode(url.partition(",")[2]), np.uint8)
    assert np.array_equal(one.images[0], cv2.imdecode(png, cv2.IMREAD_COLOR_RGB))
