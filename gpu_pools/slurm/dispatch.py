"""One turn of the service that hands runs to Slurm: what it does in which order."""

import logging
import os
import secrets
import shlex
import time
from collections.abc import Callable, Mapping, Sequence

import httpx
from prefect.client.schemas.objects import StateType

from gpu_pools.device_count import device_count
from gpu_pools.job_variables import priority_of, refuses, time_limit_s
from gpu_pools.periodic import Periodic
from gpu_pools.placement.place import Refuse, Wait
from gpu_pools.placement.queues import Queue, parse_queue, queue_or_none
from gpu_pools.placement.sentences import Sentences
from gpu_pools.placement.waiting import WaitList
from gpu_pools.prefect_client import PoolClient, Run, make_state
from gpu_pools.process import run_setup
from gpu_pools.slurm.closing import Closing
from gpu_pools.slurm.commands import Slurm, SlurmAwayError, SlurmFullError, SlurmRefusedError
from gpu_pools.slurm.hidden import job_environment
from gpu_pools.slurm.job_states import Job, sentence
from gpu_pools.slurm.records import Record, Records
from gpu_pools.slurm.request import HOST, job_name, request_of, sbatch_options
from gpu_pools.slurm.verdict import Verdict, judge
from gpu_pools.worker.monitor.set_final_state import set_final_state
from gpu_pools.worker.permitted import own_entrypoint, run_environment
from tasks.base.errors import ConfigError, StorageError
from tasks.base.startup import module_command
from tasks.base.workspace import home, run_dir

logger = logging.getLogger("trainyard.slurm")

HEARTBEAT_S = 15.0
LOOK_EVERY_S = 2.0
_PER_TURN = 20  # jobs handed over; whoever cancels waits for the next turn
_CANCEL_AGAIN_S = 10.0

QUEUES = (
    *(Queue("cuda", kind, HOST) for kind in ("training", "inference")),
    *(Queue("cpu", kind, HOST) for kind in ("training", "inference", "preparation")),
)
"""What Slurm's jobs are made of; a pipeline only waits, and does so with the yard's own worker."""


class SlurmDispatcher:
    """Call `tick` about twice a second.

    Args:
        client: of Prefect's server.
        records: what was handed over.
        slurm: its commands.
        clock: Unix seconds.
    """

    def __init__(
        self, client: PoolClient, records: Records, slurm: Slurm, clock: Callable[[], float] = time.time
    ) -> None:
        self._client, self._store, self._slurm, self._clock = client, records, slurm, clock
        self._records = {record.run_id: record for record in records.all()}
        self._waitlist = WaitList(client, clock)
        self._sentences = Sentences(client, self._waitlist, clock)
        self._closing = Closing(clock)
        self._cancelled: dict[str, float] = {}  # when a job was last asked to end
        self._seen: dict[str, Job] = {}  # by run, what Slurm said last
        self._duties: tuple[Callable[[], None], ...] = (
            Periodic(lambda: client.heartbeat(HOST, HEARTBEAT_S), HEARTBEAT_S, clock),
            Periodic(self._look, LOOK_EVERY_S, clock),
            # Last: no run waits for it.
            self._closing.tick,
        )
        self._complaint = ""

    def tick(self) -> None:
        """Do once what is to be done; who does not answer is asked again at the next tick."""
        try:
            for duty in self._duties:
                duty()
            if self._complaint:
                logger.info("%s answers again, all goes on", self._complaint)
            self._complaint = ""
        except httpx.HTTPError as exc:
            self._complain("Prefect", f"Prefect's server does not answer ({exc}); runs stay as they are")
        except SlurmAwayError as exc:
            self._complain("Slurm", f"Slurm does not answer ({exc}); runs stay as they are")
        except StorageError as exc:
            self._complain("the disk", f"{exc}; runs stay as they are")

    def close(self) -> None:
        """Let another process go on."""
        self._store.close()

    def _complain(self, about: str, text: str) -> None:
        if self._complaint != about:
            logger.warning("%s", text)
        self._complaint = about

    def _look(self) -> None:
        """Bring what was handed over up to date, hand over what waits, and let the rest say why it waits."""
        due: list[Run] = []
        telling: list[tuple[Run, Wait | Refuse]] = []
        try:
            if self._records:
                self._follow()
            due = [run for run in self._waitlist.read() if is_ours(run)]
            telling = self._hand_over_what_waits(due)
        except SlurmAwayError:
            due = due or [run for run in self._waitlist.read() if is_ours(run)]
            new = [run for run in due if self._is_new(run)]
            telling = [(run, Wait(run.id, "waits for Slurm, which does not answer")) for run in new]
            self._sentences.tell(telling, {run.id for run in due})
            raise
        for run in due:
            job = self._seen.get(run.id)
            if job is None or (refuses(run) and not (job.waits and job.reason)):
                continue  # who does not want to wait is refused once Slurm has looked at it, and not while it starts
            telling.append((run, Wait(run.id, sentence(job))))
        self._sentences.tell(telling, {run.id for run in due})

    def _is_new(self, run: Run) -> bool:
        """Return whether a run has no job yet, as far as that is known."""
        return run.id not in self._records or self._records[run.id].job_id is None

    def _follow(self) -> None:
        # Slurm first: what a job's process told the server before its end is known then.
        jobs = self._slurm.jobs()
        by_id, by_comment = {job.id: job for job in jobs}, {job.comment: job for job in jobs}
        runs = self._client.by_id(list(self._records))
        for record in list(self._records.values()):
            if record.job_id is None:
                record = self._found_again(record, by_comment.get(record.comment))
            job = by_id.get(record.job_id or "")
            if job is not None:
                self._seen[record.run_id] = job
            run = runs.get(record.run_id)
            if run is not None and not is_ours(run):
                run = None  # moved to another device while it waited
            if record.job_id is not None or run is None or run.state != "SCHEDULED":
                self._settle(record, run, job)

    def _found_again(self, record: Record, job: Job | None) -> Record:
        """Return the record of a run whose job is not known, with its job where Slurm has it."""
        return record if job is None else self._note(record.but(job_id=job.id))

    def _note(self, record: Record) -> Record:
        self._store.write(record)
        self._records[record.run_id] = record
        return record

    def _settle(self, record: Record, run: Run | None, job: Job | None) -> None:
        """Do what a run's state and that of its job ask for."""
        entry = self._closing.entry_of(record.job_id)
        attempt = entry.attempt if entry else run_setup.read_attempt(record.run_id)[0]
        verdict = judge(run, job, attempt=attempt, n_failed=record.n_failed)
        match verdict.act:
            case "leave":
                return
            case "cancel job":
                self._cancel(record)
            case "forget":
                self._closing.take(record.job_id)
                self._forget(record)
            case "hand over":
                self._closing.take(record.job_id)
                self._renew(record, verdict)
            case "set state":
                assert run is not None
                self._set_state(record, run, job, verdict)

    def _cancel(self, record: Record) -> None:
        now = self._clock()
        if record.job_id and now - self._cancelled.get(record.job_id, float("-inf")) >= _CANCEL_AGAIN_S:
            self._cancelled[record.job_id] = now
            logger.info("run %s: its Slurm job %s is cancelled", record.run_id, record.job_id)
            self._slurm.cancel(record.job_id)

    def _set_state(self, record: Record, run: Run, job: Job | None, verdict: Verdict) -> None:
        state = verdict.state
        assert state is not None
        logger.info("run %s (%s): %s %s", run.id, run.name, state.outcome, state.message)
        entry = self._closing.entry_of(record.job_id) or self._closing.blank(run)
        blameless = state.outcome == "waits" and state.attempt == entry.attempt
        set_final_state(self._client, run, state, entry.but(ending="stop") if blameless else entry)
        if state.outcome != "waits":
            run_setup.forget_attempts(run.id)
            self._closing.take(record.job_id, entry, state.outcome)
            self._forget(record)
            return
        self._waitlist.put_back(run.id)
        if job is None or job.over:
            self._closing.take(record.job_id)
            self._renew(record, verdict)

    def _renew(self, record: Record, verdict: Verdict) -> None:
        n_failed = record.n_failed + 1 if verdict.counts else 0
        self._seen.pop(record.run_id, None)
        self._note(Record(record.run_id, secrets.token_hex(4), None, self._clock(), n_failed))

    def _forget(self, record: Record) -> None:
        self._store.remove(record.run_id)
        self._records.pop(record.run_id, None)
        self._seen.pop(record.run_id, None)
        self._cancelled.pop(record.job_id or "", None)

    def _hand_over_what_waits(self, due: Sequence[Run]) -> list[tuple[Run, Wait | Refuse]]:
        """Hand over what has no job; return why the rest of that is not."""
        open_runs = [run for run in due if self._is_new(run)]
        if not open_runs:
            return []
        pool, queues = self._client.pool(), {queue.name: queue for queue in self._client.queues()}
        waits: list[tuple[Run, Wait | Refuse]] = []
        ordered = sorted(open_runs, key=lambda run: (priority_of(run, parse_queue(run.queue).kind), run.since))
        for run in ordered[:_PER_TURN]:
            paused = pool.paused or (run.queue in queues and queues[run.queue].paused)
            reason = f"queue {run.queue} is paused" if paused else self._hand_over(run)
            if reason:
                waits.append((run, Wait(run.id, reason)))
        return waits

    def _hand_over(self, run: Run) -> str:
        """Hand a run to Slurm; return why it waits to be."""
        try:
            options, env = self._options(run)
        except ConfigError as exc:
            self._refuse(run, str(exc))
            return ""
        record = self._records.get(run.id) or Record(run.id, secrets.token_hex(4), None, self._clock())
        self._note(record)  # before sbatch: a service that is killed in between finds its job by the comment
        try:
            with self._store.handing() as lock_fd:
                job_id = self._slurm.submit(
                    [*options, f"--comment={record.comment}"], _script(run.id), env, lock_fd=lock_fd
                )
        except SlurmFullError as exc:
            return f"Slurm takes no more jobs of this user for now: {exc}"
        except SlurmRefusedError as exc:
            self._forget(record)
            self._refuse(run, f"Slurm refuses the run: {exc}")
            return ""
        self._note(record.but(job_id=job_id, since=self._clock()))
        logger.info("run %s (%s) is Slurm job %s", run.id, run.name, job_id)
        return ""

    def _refuse(self, run: Run, reason: str) -> None:
        self._waitlist.drop(run.id)
        logger.warning("run %s (%s): %s", run.id, run.name, reason)
        known = self._client.by_id([run.id]).get(run.id)
        if known is not None and known.state == "SCHEDULED":
            self._client.force(run.id, make_state(StateType.FAILED, "Failed", reason))

    def _options(self, run: Run) -> tuple[list[str], Mapping[str, str]]:
        """Return the options of sbatch for a run, and the environment of its job.

        Raises:
            ConfigError: the run is none that the yard starts, or asks for what is out of bounds.
        """
        queue = parse_queue(run.queue)
        if queue not in QUEUES:
            raise ConfigError(f"found queue {run.queue!r}, Slurm has: {', '.join(queue.name for queue in QUEUES)}")
        deployment = self._client.deployment(run.deployment)
        own_entrypoint(deployment.entrypoint)
        run_environment(deployment.variables)
        run_environment(run.job_variables)
        limit_s = time_limit_s(run)
        left_s = None if limit_s is None else max(0.0, limit_s - run_setup.read_attempt(run.id)[1])
        asked = sbatch_options(request_of(run.job_variables), queue, device_count(run.parameters), left_s)
        log = run_dir(run.id) / "slurm.log"
        own = [f"--job-name={job_name(run.name)}", f"--chdir={home()}", f"--output={log}", "--open-mode=append"]
        env = job_environment(os.environ) | {"TRAINYARD_HOME": str(home())}
        return [*asked, *own, "--requeue", "--export=ALL"], env


def is_ours(run: Run) -> bool:
    """Return whether a run is for Slurm; one that waits may be moved to another device."""
    queue = queue_or_none(run.queue)
    return queue is not None and queue.host == HOST


def _script(run_id: str) -> str:
    """Return what a job runs; the shell makes way for Python, so that Slurm's signals reach it alone."""
    return f"#!/bin/sh\nexec {shlex.join(module_command('gpu_pools.slurm.job', run_id))}\n"
