"""A notice as a mail, as a document and as Slack shows it; texts of people's own automations."""

import json
from uuid import uuid4

import pytest

from deployments.notices.delivery import mail_of, slack_text
from deployments.notices.messages import Message, compose, parse
from gpu_pools.sharing.notice_settings import MailServer
from gpu_pools.sharing.notices import Notice, notice_id

ID = notice_id("finished", "1")
NOTICE = Notice(
    *(ID, "finished", "größte <Probe> of anna@boxa has finished.", "anna@boxa", "run", "größte <Probe>", "boxa/cuda:1"),
    figures={"waited": "42 min", "ran": "2 h"},
    at=1_800_000_000.0,
)
LINKS = {"MLflow": "http://mlflow/#/1", "Prefect": "http://prefect/runs/1"}
MESSAGE = compose(NOTICE, {"result": "93.1% right", "run": "größte <Probe>"}, LINKS)


def test_a_mail_is_short_and_plain():
    mail = mail_of(MailServer(server="smtp", sender="Übung <yard@lab.example>"), "anna@lab.example", "anna", MESSAGE)
    assert mail["Subject"] == "finished: größte <Probe>"
    assert mail["Message-ID"] == f"<{ID}.anna@lab.example>"
    assert mail.get_content() == (
        "größte <Probe> of anna@boxa has finished.\n\n"
        "run     größte <Probe>\nwaited  42 min\nran     2 h\nresult  93.1% right\n\n"
        "Prefect  http://prefect/runs/1\nMLflow   http://mlflow/#/1\n"
    )


def test_a_name_of_several_lines_makes_no_header_of_its_own():
    notice = Notice(ID, "failed", "text", run_name="x\r\nBcc: eve@evil.example")
    mail = mail_of(MailServer(server="s", sender="y@l"), "anna@lab.example", "anna", compose(notice, {}, {}))
    assert mail["Subject"] == "FAILED: x Bcc: eve@evil.example"
    assert mail["Bcc"] is None


def test_a_long_name_is_cut():
    assert len(compose(Notice(ID, "failed", "text", run_name="x" * 500), {}, {}).subject) == 120


def test_slack_shows_marks_as_they_are():
    assert slack_text(MESSAGE).splitlines()[:2] == [
        "*finished: größte &lt;Probe&gt;*",
        "größte &lt;Probe&gt; of anna@boxa has finished.",
    ]
    assert slack_text(MESSAGE).endswith("<http://mlflow/#/1|MLflow> | <http://prefect/runs/1|Prefect>")


def test_a_document_is_the_message_again():
    assert parse(json.dumps(MESSAGE.as_json()), "", str(uuid4())) == MESSAGE


@pytest.mark.parametrize(
    "body",
    [
        "the flow is late",
        "{}",
        "[1]",
        json.dumps({**MESSAGE.as_json(), "id": "../../../etc/cron.d/x"}),
        json.dumps({**MESSAGE.as_json(), "figures": {"a": {"b": 1}}}),
    ],
)
def test_what_is_no_document_of_the_yard_is_a_text(body):
    own = str(uuid4())
    assert parse(body, "a subject", own) == Message(own, "own", "a subject", body)
