"""On a real server with a real worker each who is concerned is told what is true, once, by mail or by a webhook."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from deployments.notices import notice_service
from deployments.notices.run_watch import SETTLED_S
from deployments.services.programs import prefect_service
from deployments.services.service import free_port
from tests.chaos.yard import ROOT, Yard
from tests.deployments.notices.receivers import PASSWORD, USER, Hook, Mails, mail_server, webhook

pytestmark = [pytest.mark.yard, pytest.mark.timeout(900)]

SETTINGS = """
admins: [carla]
notices:
  waited: 10m
  prefect_url: http://yard.lab.example
  mail:
    server: 127.0.0.1
    port: {port}
    user: {user}
    password_file: smtp-password
    sender: "Übungs-Yard <yard@lab.example>"
  to:
    anna: {{owners: [anna], mail: anna@lab.example}}
    team: {{webhook_file: hook, kinds: [failed, refused, device-lost, disk-low]}}
"""


class NoticeYard(Yard):
    """A yard with the server of `yard up`, its kind of block, and the service that tells people.

    Attributes:
        mails, hook: what anna and the team got.
    """

    mails: Mails
    hook: Hook

    def start_server(self) -> None:
        """Start the server as `yard up` does and wait until it answers."""
        service = prefect_service(self.port, ui=True)
        self.env |= service.env | {"PREFECT_UI_URL": service.url, "PREFECT_UI_ENABLED": "false"}
        with (self.home / "server.log").open("ab") as log:
            self.server = subprocess.Popen(
                service.argv, env=self.env, stdout=log, stderr=log, cwd=ROOT, start_new_session=True
            )
        self.until(self._answers, 240, "the server answers")

    def start_notices(self) -> None:
        """Start the service."""
        with (self.home / "notices.log").open("ab") as log:
            argv = [sys.executable, "-m", "deployments.notices.notice_service"]
            self.workers["notices"] = subprocess.Popen(
                argv, env=self.env, stdout=log, stderr=log, cwd=ROOT, start_new_session=True
            )

    def stop_notices(self) -> None:
        """Kill the service, as a crash does."""
        self.kill(self.workers.pop("notices"))

    def channels(self) -> None:
        """Do what `deployments.apply` does for notices."""
        code = (
            "import asyncio; from prefect.client.orchestration import get_client\n"
            "from deployments.apply import ensure_notices\n"
            "async def main():\n    async with get_client() as client: await ensure_notices(client)\n"
            "asyncio.run(main())"
        )
        subprocess.run([sys.executable, "-c", code], env=self.env, cwd=ROOT, check=True)

    def begin(self, name: str, flow: str, seconds: float = 0.2, *, waited_s: float = 0.0, **variables: object) -> str:
        """Submit a run of anna's on the GPU; it looks as if it had waited for so long already."""
        parameters = {} if flow == "fail" else {"folder": str(self.home), "seconds": seconds}
        due = datetime.now(UTC) - timedelta(seconds=waited_s)
        body = {
            "name": name,
            "parameters": parameters,
            "work_queue_name": "cuda:0.training",
            "job_variables": {"owner": "anna@boxa", **variables},
            "state": {"type": "SCHEDULED", "state_details": {"scheduled_time": due.isoformat()}},
        }
        return str(self.post(f"/deployments/{self.deployment(flow)}/create_flow_run", body)["id"])

    def mailed(self, name: str) -> list[str]:
        """Return the subjects of the mails on a run, without its name."""
        return [subject.removesuffix(f": {name}") for subject in self.mails.subjects() if subject.endswith(f": {name}")]

    def posted(self, name: str) -> list[str]:
        """Return the kinds of what the webhook got on a run."""
        return [found["kind"] for found in self.hook.got if found["run_name"] == name]

    def until_mailed(self, name: str, *subjects: str) -> None:
        """Wait until these mails have come on a run, and for one that should not come."""
        self.until(
            lambda: len(self.mailed(name)) >= len(subjects), 90, f"{subjects} of {name}: {self.mails.subjects()}"
        )
        self.until_quiet()
        assert self.mailed(name) == list(subjects)

    def until_quiet(self) -> None:
        """Wait until nothing is left to be told, twice as long as the service sleeps."""
        time.sleep(2 * notice_service.POLL_S + SETTLED_S)
        self.until(lambda: not list(self.home.glob("notices/waiting/*")), 60, "all is told")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Iterator[NoticeYard]:
    home = tmp_path_factory.mktemp("yard")
    with mail_server(home, login=True) as mails, webhook() as hook:
        (home / "yard.yaml").write_text(SETTINGS.format(port=mails.port, user=USER))
        for name, secret in {"smtp-password": PASSWORD, "hook": hook.url}.items():
            (home / name).write_text(secret)
            (home / name).chmod(0o600)
        made = NoticeYard(home, free_port(), SSL_CERT_FILE=str(home / "certificate.pem"), n_gpus=1)
        made.mails, made.hook = mails, hook
        try:
            made.start_server()
            made.channels()
            made.start_worker("one")
            made.until(lambda: made.serves("one"), 240, "the worker serves")
            made.deploy_runs()
            made.start_notices()
            time.sleep(notice_service.POLL_S)  # what ended before the first look is nobody's news
            yield made
        finally:
            made.stop()


def test_a_finished_run_tells_its_owner_with_figures_and_a_link(made):
    run = made.begin("größte-probe", "hold", waited_s=7200)
    made.until_mailed("größte-probe", "finished")
    mail = made.mails.got[-1]
    assert (mail["From"], mail["To"]) == ("Übungs-Yard <yard@lab.example>", "anna@lab.example")
    assert mail.get_content_type() == "text/plain"
    lines = [line for line in mail.get_content().splitlines() if line]
    assert lines[0] == "größte-probe of anna@boxa has finished."
    assert [line.split()[0] for line in lines[1:]] == ["run", "owner", "device", "waited", "ran", "Prefect"]
    assert "waited  2 h" in lines
    assert f"Prefect  http://yard.lab.example/runs/flow-run/{run}" in lines
    assert made.posted("größte-probe") == []


def test_a_failed_run_says_why_in_a_sentence_to_its_owner_and_the_team(made):
    made.begin("bad", "fail")
    made.until_mailed("bad", "FAILED")
    assert made.mails.got[-1].get_content().splitlines()[0].endswith("has failed: found nothing, need something")
    assert made.posted("bad") == ["failed"]
    (document,) = [found for found in made.hook.got if found["run_name"] == "bad"]
    assert document["text"] == "bad of anna@boxa has failed: found nothing, need something"
    assert (document["owner"], document["figures"]["owner"]) == ("anna@boxa", "anna@boxa")


def test_a_cancelled_run_tells_nothing_whether_it_ran_or_waited(made):
    running = made.begin("runs", "steps", 60)
    made.until(made.begun(running), 60, "it begins")
    waiting = made.begin("waits", "hold")
    for run in (waiting, running):
        made.cancel(run)
        made.until(made.is_(run, "CANCELLED"), 60, "it is cancelled")
    made.until_quiet()
    assert made.mailed("runs") + made.mailed("waits") + made.posted("runs") + made.posted("waits") == []


def test_a_run_that_is_killed_and_goes_on_tells_only_that_it_has_finished(made):
    run = made.begin("killed", "steps", 3)
    made.until(made.begun(run), 60, "it begins")
    os.kill(made.pid(run), signal.SIGKILL)
    made.until(made.begun(run, 2), 60, "it begins again")
    made.until_mailed("killed", "finished")
    assert "attempts  2" in made.mails.got[-1].get_content()


def test_a_run_that_is_stopped_by_its_worker_and_goes_on_tells_only_that_it_has_finished(made):
    run = made.begin("stopped", "steps", 3)
    made.until(made.begun(run), 60, "it begins")
    made.workers["one"].send_signal(signal.SIGUSR1)
    made.until(lambda: made.workers["one"].poll() is not None, 60, "the worker stops")
    made.start_worker("one")
    made.until_mailed("stopped", "finished")


def test_a_time_limit_is_told_before_and_after(made):
    made.begin("slow", "steps", 60, time_limit="20s")
    made.until_mailed("slow", "will be stopped soon", "FAILED")
    before, after = [mail.get_content() for mail in made.mails.got[-2:]]
    assert before.startswith(
        "slow of anna@boxa will be stopped in about 1 s, at its time limit of 20 s. What it has saved"
    )
    assert after.startswith("slow of anna@boxa has failed: stopped after 20 s, its time limit; what it saved is kept")


def test_a_refused_run_says_for_whom(made):
    run = made.begin("holder", "hold", 60)
    made.until(made.begun(run), 60, "it begins")
    made.begin("impatient", "hold", when_busy="refuse")
    made.until_mailed("impatient", "refused")
    assert (
        made.mails.got[-1].get_content().startswith("impatient of anna@boxa was refused: cuda:0 is training holder of")
    )
    assert made.posted("impatient") == ["refused"]
    made.cancel(run)
    made.until(made.is_(run, "CANCELLED"), 60, "it is cancelled")


def test_a_run_that_waited_long_tells_when_it_has_started(made):
    made.begin("patient", "hold", 8, waited_s=2400)
    made.until_mailed("patient", "started", "finished")
    text = made.mails.got[-2].get_content()
    assert text.startswith("patient of anna@boxa has started on ")
    assert "after it had waited for 40 min." in text


@pytest.fixture
def impatient(made):
    """Lets idle runs be reported after seconds, and ended seconds after that."""
    settings = (made.home / "yard.yaml").read_text()
    (made.home / "yard.yaml").write_text(f"{settings}idle:\n  training: {{report: 5s, give_back: 10s}}\n")
    yield
    (made.home / "yard.yaml").write_text(settings)


@pytest.mark.usefixtures("impatient")
def test_a_program_in_a_terminal_that_idles_is_told_of_once_and_given_back(made):
    command = [sys.executable, "-m", "deployments.cli.app", "exec", "--device", "cuda:0", "--name", "idler"]
    env = {**made.env, "TRAINYARD_OWNER": "anna@boxa"}
    with subprocess.Popen([*command, "--", "sleep", "600"], env=env, cwd=ROOT, stdout=subprocess.DEVNULL) as idler:
        made.until_mailed("idler", "idle")
        assert "anna@boxa is idle since " in made.mails.got[-1].get_content()
        assert idler.wait(120) == 143
    (row,) = made.post("/flow_runs/filter", {"flow_runs": {"name": {"any_": ["idler"]}}})
    assert row["state"]["type"] == "CANCELLED"
    assert row["state"]["message"].startswith("gave cuda:0 back: its processes used neither a CPU nor cuda:0 for ")
    made.until_quiet()
    assert made.mailed("idler") == ["idle"]


def test_a_run_that_ends_while_the_service_is_dead_is_told_of_once(made):
    made.stop_notices()
    run = made.begin("unseen", "hold")
    made.until(made.is_(run, "COMPLETED"), 60, "it ends")
    for _ in range(3):  # killed in the middle of what it does
        made.start_notices()
        time.sleep(1.5)
        made.stop_notices()
    made.start_notices()
    made.until_mailed("unseen", "finished")


def test_a_run_that_ends_while_the_server_dies_is_told_of_once(made):
    run = made.begin("orphan", "hold")
    made.until(made.is_(run, "COMPLETED"), 60, "it ends")
    waiting = made.home / "notices" / "waiting"
    made.until(lambda: list(waiting.glob("*")), 30, "the notice is left")
    made.kill(made.server)
    made.start_server()
    made.until_mailed("orphan", "finished")


def test_what_is_refused_by_the_mail_server_is_a_fault_until_it_takes_the_next_one(made):
    made.mails.refuse = "451 4.3.0 no room"
    made.begin("unwelcome", "hold")
    receipts = made.home / "notices" / "receipts"
    made.until(lambda: any("no room" in path.read_text() for path in receipts.glob("*.json")), 60, "it is refused")
    said = yard(made, "notices")
    assert f"fault: notices: anna was not told, last at {datetime.now().date()}" in said
    assert "refuses the mail to anna@lab.example: 451 4.3.0 no room" in said
    made.mails.refuse = ""
    made.until_mailed("unwelcome", "finished")
    assert "fault" not in yard(made, "notices")


def test_an_automation_that_people_paused_stays_so(made):
    (found,) = made.post("/automations/filter", {"automations": {"name": {"any_": ["Notices to team"]}}})
    made.ask("PATCH", f"/automations/{found['id']}", {"enabled": False})
    made.channels()
    (again,) = made.post("/automations/filter", {"automations": {"name": {"any_": ["Notices to team"]}}})
    assert (again["id"], again["enabled"]) == (found["id"], False)
    made.ask("PATCH", f"/automations/{found['id']}", {"enabled": True})


def test_the_command_tries_each_of_them(made):
    said = yard(made, "notices", "test", "anna")
    assert said == "anna: 250 2.0.0 taken\n"
    assert made.mails.subjects()[-1].startswith("a test of the yard on ")
    assert yard(made, "notices", "test", "team") == "team: 200 ok\n"


def test_no_secret_is_in_prefect_or_in_a_log(made):
    events = made.post(
        "/events/filter", {"filter": {"event": {"prefix": ["trainyard.", "prefect.automation"]}}, "limit": 50}
    )
    blocks = made.post("/block_documents/filter", {"include_secrets": True})
    automations = made.post("/automations/filter", {})
    known = json.dumps([events, blocks, automations]) + made.tails()
    assert "trainyard.run.finished" in known
    assert PASSWORD not in known
    assert "s3cret" not in known


def yard(made: NoticeYard, *words: str) -> str:
    """Return what a command of the yard says."""
    command = [sys.executable, "-m", "deployments.cli.app", *words]
    return subprocess.run(command, env=made.env, cwd=ROOT, capture_output=True, text=True, check=True).stdout
