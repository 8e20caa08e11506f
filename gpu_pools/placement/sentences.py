"""Writes on each waiting run why it waits, and on a refused one why it will not run."""

import logging
from collections.abc import Callable, Collection, Sequence

from prefect.client.schemas.objects import StateType

from gpu_pools.job_variables import refuses
from gpu_pools.placement.place import Refuse, Wait
from gpu_pools.placement.waiting import WaitList
from gpu_pools.prefect_client import PoolClient, Run, make_state, waiting_state

logger = logging.getLogger("trainyard.worker")

SENTENCE_EVERY_S = 10.0  # a waiting run's state is written at most so often
_PER_TURN = 20
_READ_AT_ONCE = 5  # of a run that another worker started meanwhile, only its claim is found out; it runs soon after


class Sentences:
    """Writes on runs, as their states, what was decided on them.

    Args:
        client: of Prefect's server.
        waitlist: forgets what waits no longer.
        clock: Unix seconds.
    """

    def __init__(self, client: PoolClient, waitlist: WaitList, clock: Callable[[], float]) -> None:
        self._client, self._waitlist, self._clock = client, waitlist, clock
        self._said: dict[str, tuple[str, float]] = {}

    def tell(self, decisions: Sequence[tuple[Run, Wait | Refuse]], due: Collection[str]) -> None:
        """Write what is news, some of it per turn; `due`: the ids of all that waits.

        Raises:
            httpx.HTTPError: the server does not answer.
        """
        news = [
            (run, decision)
            for run, decision in decisions
            if isinstance(decision, Refuse) or refuses(run) or self._is_news(run, decision, len(due))
        ]
        for first in range(0, min(len(news), _PER_TURN), _READ_AT_ONCE):
            self._write(news[first : first + _READ_AT_ONCE])
        for gone in self._said.keys() - due:
            del self._said[gone]

    def refuse(self, run: Run, reason: str) -> None:
        """Let a run fail that can never start, unless it was cancelled meanwhile."""
        self._waitlist.drop(run.id)
        known = self._client.by_id([run.id])
        if run.id not in known or known[run.id].state not in {"SCHEDULED", "PENDING"}:
            return
        logger.warning("run %s (%s): %s", run.id, run.name, reason)
        self._client.force(run.id, make_state(StateType.FAILED, "Failed", reason))

    def _is_news(self, run: Run, decision: Wait, n_waiting: int) -> bool:
        """Return whether a waiting run says something else than it should, and has said so for a while."""
        text, when = self._said.get(run.id, (run.message if run.state_name == "Waiting" else "", 0.0))
        # The minutes left change often; writing them on a thousand waiting runs would keep the server busy.
        return text != decision.reason and self._clock() - when >= max(SENTENCE_EVERY_S, 0.2 * n_waiting)

    def _write(self, telling: Sequence[tuple[Run, Wait | Refuse]]) -> None:
        # A run that was read some time ago may be cancelled, or another worker's, by now.
        known = self._client.by_id([run.id for run, _ in telling])
        for run, decision in telling:
            if run.id not in known or known[run.id].state != "SCHEDULED":
                self._waitlist.drop(run.id)
            elif isinstance(decision, Refuse):
                self.refuse(run, decision.reason)
            elif refuses(run):
                text = f"refused: {decision.reason}"
                self._client.propose(run.id, make_state(StateType.CANCELLED, "Cancelled", text), known[run.id].state_id)
                self._waitlist.drop(run.id)
            else:
                state = waiting_state(decision.reason, run.since)
                if self._client.propose(run.id, state, known[run.id].state_id):  # else the next turn looks again
                    self._said[run.id] = (decision.reason, self._clock())
