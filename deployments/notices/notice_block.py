"""Prefect's block of a recipient of notices: a name that the yard's settings explain."""

from typing import Any
from uuid import uuid4

import anyio
from prefect.blocks.abstract import NotificationBlock, NotificationError
from pydantic import Field

from deployments.notices.delivery import send
from deployments.notices.messages import Message, parse
from deployments.notices.receipts import deliver
from gpu_pools.sharing.settings import read_settings
from tasks.base.errors import TrainyardError


class YardNotice(NotificationBlock):
    """Tells a recipient of yard.yaml, by e-mail, Slack or a webhook.

    It holds no address and no password: who reaches Prefect's API could read them.
    """

    _block_type_name = "Yard notice"
    _block_type_slug = "yard-notice"

    recipient: str = Field(description="Its name below notices.to in the yard's settings")

    async def notify(self, body: str, subject: str | None = None) -> None:
        """Send a notice, or a text of an automation of somebody's own.

        Raises:
            NotificationError: it was not taken.
        """
        message = parse(body, subject or "", str(uuid4()))
        try:
            await anyio.to_thread.run_sync(self._deliver, message)
        except TrainyardError as exc:
            raise NotificationError(str(exc)) from exc

    def _deliver(self, message: Message) -> None:
        settings: Any = read_settings().notices
        deliver(message, self.recipient, lambda: send(settings, self.recipient, message))
