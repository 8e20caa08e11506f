"""The example of the section on notices works, and its table names every kind and field there is."""

import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

from deployments.notices.messages import Message
from gpu_pools.sharing.notice_settings import KINDS
from tests.deployments.notices.receivers import PASSWORD, mail_server, webhook

PAGE = (Path(__file__).parents[3] / "docs" / "sharing.md").read_text()
SECTION = PAGE.partition("\n## Notices\n")[2].partition("\n## ")[0]
YARD = Path(sys.executable).parent / "yard"


def block(language):
    (found,) = re.findall(rf"```{language}\n(.*?)```", SECTION, re.S)
    return found


def test_the_example_works(tmp_path):
    with mail_server(tmp_path, login=True) as mails, webhook() as hook:
        example = block("yaml").replace("smtp.lab.example", "127.0.0.1").replace("587", str(mails.port))
        for name, text in {"yard.yaml": example, "smtp-password": PASSWORD, "hook": hook.url}.items():
            (tmp_path / name).write_text(text)
            (tmp_path / name).chmod(0o644 if name == "yard.yaml" else 0o600)
        env = os.environ | {"TRAINYARD_HOME": str(tmp_path), "SSL_CERT_FILE": str(tmp_path / "certificate.pem")}
        said = []
        for line in block("sh").splitlines():
            command = [str(YARD), *line.split()[1:]]
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
            assert done.returncode == 0, done.stdout + done.stderr
            said.append(done.stdout)
        assert said[0] == "anna: 250 2.0.0 taken\nteam: 200 ok\n"
        assert said[1] == "anna: 250 2.0.0 taken\n"
        assert said[2].startswith("anna       mail anna@lab.example; runs of anna: started, finished, ")
        assert [mail["To"] for mail in mails.got] == ["anna@lab.example"] * 2
        assert len(hook.got) == 1


def test_every_kind_and_every_field_is_named():
    assert re.findall(r"^\| `([a-z-]+)` \| (?!.*NAME)", SECTION.partition("| setting |")[0], re.M) == list(KINDS)
    for field in fields(Message):
        assert f"`{field.name}`" in SECTION
