"""One suite over SQLite and Postgres: jobs move legally, events have no gap, one of several racers wins."""

import asyncio
import uuid
from datetime import UTC, datetime
from itertools import chain

import pytest

from services.common.errors import NotFound
from services.trainer import domain
from services.trainer.domain import JobStatus, Stage
from services.trainer.store import JobFilter, Store
from tests.trainer.made import log, new_job, progress, trained

TOKEN = "secret"


async def queued(store: Store, **changes: object) -> domain.Job:
    job = await store.create(new_job(**changes))
    moved = await store.queue(job.id)
    assert moved is not None
    return moved.job


async def running(store: Store, token: str = TOKEN, lease_seconds: float = 60) -> domain.Job:
    await queued(store)
    moved = await store.claim(owner="here", token=token, lease_seconds=lease_seconds)
    assert moved is not None
    return moved.job


async def report(
    store: Store, job: domain.Job, first: int, *reports: domain.Report, token: str = TOKEN
) -> domain.Appended | None:
    return await store.append_reports(job.id, token, first=first, reports=reports, lease_seconds=60)


async def bodies(store: Store, job_id: str) -> list[object]:
    stored = await store.journal.read(job_id)
    assert [event.sequence for event in stored] == list(range(1, len(stored) + 1)), "numbers have a gap"
    assert (await store.get(job_id)).last_sequence == len(stored)
    return [event.body for event in stored]


async def test_a_job_comes_back_as_it_was_made(store: Store) -> None:
    new = new_job(output_name="Emoji 🎉")
    made = await store.create(new)
    assert made == await store.get(new.id)
    assert (made.status, made.config, made.output_name) == (JobStatus.PENDING, new.config, "Emoji 🎉")
    assert abs((datetime.now(UTC) - made.created_at).total_seconds()) < 60


async def test_a_missing_job_is_not_found(store: Store) -> None:
    with pytest.raises(NotFound):
        await store.get(str(uuid.uuid4()))


async def test_a_request_id_makes_one_job_however_many_ask_at_once(store: Store) -> None:
    request_id = str(uuid.uuid4())
    made = await asyncio.gather(*(store.create(new_job(request_id=request_id)) for _ in range(5)))
    assert len({job.id for job in made}) == 1
    assert (await store.list_jobs(JobFilter(), limit=10))[1] == 1


async def test_jobs_are_listed_newest_first_page_by_page(store: Store) -> None:
    made = [(await store.create(new_job())).id for _ in range(5)]
    first, total = await store.list_jobs(JobFilter(), limit=2)
    rest, _ = await store.list_jobs(JobFilter(), limit=9, before=(first[-1].created_at, first[-1].id))
    assert [job.id for job in first + rest] == made[::-1]
    assert total == 5


async def test_jobs_are_listed_by_status_dataset_and_being_unfinished(store: Store) -> None:
    first, second = await queued(store, dataset_id=1), await store.create(new_job(dataset_id=2))
    await store.request_cancel(second.id)
    for where, expected in [
        (JobFilter(status=JobStatus.CANCELLED), [second.id]),
        (JobFilter(dataset_id=1), [first.id]),
        (JobFilter(unfinished=True), [first.id]),
        (JobFilter(dataset_id=2, unfinished=True), []),
    ]:
        jobs, total = await store.list_jobs(where, limit=10)
        assert [job.id for job in jobs] == expected
        assert total == len(expected)


async def test_the_queue_is_first_in_first_out_and_says_who_is_next(store: Store) -> None:
    waiting = [await queued(store) for _ in range(3)]
    assert [job.queue_position for job in waiting] == [1, 2, 3]
    moved = await store.claim(owner="here", token=TOKEN, lease_seconds=60)
    assert moved is not None
    assert moved.job.id == waiting[0].id
    assert [(await store.get(job.id)).queue_position for job in waiting] == [0, 1, 2]
    told = await store.renumber_queue()
    assert {one.job.id: one.events[0].body for one in told} == {
        waiting[1].id: domain.Queued(1),
        waiting[2].id: domain.Queued(2),
    }
    assert await store.renumber_queue() == []
    listed, _ = await store.list_jobs(JobFilter(), limit=9)
    assert {job.id: job.queue_position for job in listed} == {waiting[0].id: 0, waiting[1].id: 1, waiting[2].id: 2}


async def test_of_many_claimers_each_gets_another_job_and_none_is_lost(store: Store) -> None:
    waiting = {(await queued(store)).id for _ in range(6)}

    async def claim_all(owner: str) -> list[str]:
        got: list[str] = []
        while moved := await store.claim(owner=owner, token=f"{owner}{len(got)}", lease_seconds=60):
            got.append(moved.job.id)
        return got

    claimed: list[str] = []
    # A claimer that finds the head of the queue locked by another may come away empty; the scheduler asks again.
    while len(claimed) < len(waiting):
        claimed += chain.from_iterable(await asyncio.gather(*(claim_all(name) for name in "abc")))
    assert sorted(claimed) == sorted(waiting)


async def test_only_a_pending_job_is_queued(store: Store) -> None:
    job = await queued(store)
    assert await store.queue(job.id) is None
    assert await bodies(store, job.id) == [domain.Queued(1)]


async def test_reports_become_events_and_the_last_step_the_progress(store: Store) -> None:
    job = await running(store)
    await report(store, job, 1, log(), progress(1))
    moved = await report(store, job, 3, progress(2))
    assert moved is not None
    assert (moved.job.progress, moved.job.last_report) == (progress(2), 3)
    starting = domain.Loading(domain.LoadingStage.STARTING_WORKER)
    assert await bodies(store, job.id) == [domain.Queued(1), starting, log(), progress(1), progress(2)]


async def test_reports_out_of_turn_or_of_another_attempt_change_nothing(store: Store) -> None:
    job = await running(store)
    await report(store, job, 1, progress(1))
    assert await report(store, job, 1, progress(1)) is None, "stored already"
    assert await report(store, job, 3, progress(3)) is None, "2 is missing"
    assert await report(store, job, 2, progress(2), token="another") is None
    assert len(await bodies(store, job.id)) == 3


async def test_writers_of_one_job_never_number_twice(store: Store) -> None:
    job = await running(store)
    await asyncio.gather(*(store.append_output(job.id, TOKEN, [log(str(n)), log("b")], n) for n in range(10)))
    assert len(await bodies(store, job.id)) == 22


async def test_a_trained_model_is_registered_and_then_the_job_is_done(store: Store) -> None:
    job = await running(store)
    moved = await report(store, job, 1, progress(10), trained())
    assert moved is not None
    assert (moved.job.stage, moved.job.trained, moved.job.status) == (Stage.REGISTERING, trained(), JobStatus.RUNNING)
    done = domain.Done(101, job.model_name)
    ended = await store.complete(job.id, done)
    assert ended is not None
    assert (ended.job.status, ended.job.model_id, ended.events[-1].body) == (JobStatus.COMPLETED, 101, done)
    assert ended.job.finished_at is not None
    assert await store.complete(job.id, done) is None
    assert await store.fail_registration(job.id, domain.Failure("LATE", "too late")) is None


async def test_a_job_whose_model_cannot_be_registered_fails_and_keeps_its_weights(store: Store) -> None:
    job = await running(store)
    await report(store, job, 1, trained())
    failure = domain.Failure("REGISTRATION_FAILED", "the Catalog did not answer")
    assert await store.fail_registration(job.id, failure) is not None
    kept = await store.get(job.id)
    assert (kept.status, kept.failure, kept.trained) == (JobStatus.FAILED, failure, trained())


async def test_one_replica_takes_over_a_registration(store: Store) -> None:
    job = await running(store)
    await report(store, job, 1, trained())
    takers = [store.take_registration(job.id, TOKEN, owner=name, lease_seconds=60) for name in "abc"]
    assert len([taken for taken in await asyncio.gather(*takers) if taken]) == 1


async def test_a_failure_is_kept_with_its_reason(store: Store) -> None:
    job = await running(store)
    failure = domain.Failure("OUT_OF_MEMORY", "the GPU is full")
    await report(store, job, 1, log("last words"), failure)
    kept = await store.get(job.id)
    assert (kept.status, kept.failure) == (JobStatus.FAILED, failure)
    assert (await bodies(store, job.id))[-2:] == [log("last words"), failure]
    assert await report(store, job, 3, progress(1)) is None, "it has ended"


@pytest.mark.parametrize("start", [False, True])
async def test_a_waiting_job_is_cancelled_at_once(store: Store, start: bool) -> None:
    job = await queued(store) if start else await store.create(new_job())
    moved = await store.request_cancel(job.id)
    assert moved is not None
    assert moved.job.status is JobStatus.CANCELLED
    assert (await bodies(store, job.id))[-1] == domain.Cancelled()
    assert await store.claim(owner="here", token=TOKEN, lease_seconds=60) is None


async def test_a_running_job_is_cancelled_when_its_worker_says_so(store: Store) -> None:
    job = await running(store)
    asked = await store.request_cancel(job.id)
    again = await store.request_cancel(job.id)
    assert asked is not None
    assert again is not None
    assert asked.job.cancel_requested_at == again.job.cancel_requested_at is not None
    ended = await report(store, job, 1, progress(1), domain.Cancelled())
    assert ended is not None
    assert ended.job.status is JobStatus.CANCELLED
    assert await store.request_cancel(job.id) is None


async def test_a_worker_stopped_by_nobody_here_leaves_its_job_in_the_queue(store: Store) -> None:
    job = await running(store)
    moved = await report(store, job, 1, domain.Cancelled())
    assert moved is not None
    assert (moved.job.status, moved.job.queue_position) == (JobStatus.QUEUED, 1)
    again = await store.claim(owner="here", token="second", lease_seconds=60)
    assert again is not None
    assert again.job.last_report == 0
    await bodies(store, job.id)


async def test_a_registering_job_is_too_late_to_cancel(store: Store) -> None:
    job = await running(store)
    await report(store, job, 1, trained())
    assert await store.request_cancel(job.id) is None


LOST = domain.Failure("WORKER_LOST", "the worker ended with exit code -9")


async def lose(store: Store, job: domain.Job) -> domain.Job:
    """The job after its next worker is lost."""
    await store.claim(owner="here", token=TOKEN, lease_seconds=60)
    ended = await store.end_attempt(job.id, TOKEN, LOST)
    assert ended is not None
    return ended.job


@pytest.mark.parametrize("wish", ["none", "pause", "cancel"])
async def test_a_job_whose_worker_is_lost_is_queued_again_unless_something_else_was_wished(
    store: Store, wish: str
) -> None:
    job = await running(store)
    match wish:
        case "pause":
            await store.request_pause(job.id)
        case "cancel":
            await store.request_cancel(job.id)
    assert await store.end_attempt(job.id, "another", LOST) is None
    ended = await store.end_attempt(job.id, TOKEN, LOST, [log("Segmentation fault")])
    assert ended is not None
    wanted = {"none": JobStatus.QUEUED, "pause": JobStatus.PAUSED, "cancel": JobStatus.CANCELLED}
    assert ended.job.status is wanted[wish]
    assert log("Segmentation fault") in await bodies(store, job.id)
    assert await store.end_attempt(job.id, TOKEN, LOST) is None


async def test_a_job_that_loses_three_workers_without_a_checkpoint_has_failed(store: Store) -> None:
    job = await queued(store)
    saved = domain.Checkpoint(3, 7, datetime.now(UTC), 0.5)
    assert [(await lose(store, job)).status for _ in range(2)] == [JobStatus.QUEUED] * 2
    await store.claim(owner="here", token=TOKEN, lease_seconds=60)
    await report(store, job, 1, saved)
    await store.end_attempt(job.id, TOKEN, LOST)
    assert (await store.get(job.id)).losses == 1, "a checkpoint is a beginning"
    assert [(await lose(store, job)).status for _ in range(2)] == [JobStatus.QUEUED, JobStatus.FAILED]
    assert (await store.get(job.id)).failure == LOST


async def test_a_retry_queues_a_job_that_has_failed_or_was_cancelled_and_forgets_why(store: Store) -> None:
    failed, cancelled = await running(store), await queued(store)
    await report(store, failed, 1, domain.Failure("OUT_OF_MEMORY", "no memory left"))
    await store.request_cancel(cancelled.id)
    for job in (failed, cancelled):
        retried = await store.queue(job.id, since=(JobStatus.FAILED, JobStatus.CANCELLED))
        assert retried is not None
        again = retried.job
        assert (again.status, again.failure, again.finished_at) == (JobStatus.QUEUED, None, None)
        assert again.cancel_requested_at is None
        assert await store.register_again(job.id) is None


async def test_a_model_that_was_trained_is_registered_again_and_not_trained_again(store: Store) -> None:
    job = await running(store)
    await report(store, job, 1, trained())
    await store.fail_registration(job.id, domain.Failure("REGISTRATION_FAILED", "the Catalog is away"))
    assert await store.queue(job.id, since=(JobStatus.FAILED,)) is None
    again = await store.register_again(job.id)
    assert again is not None
    assert (again.job.status, again.job.stage) == (JobStatus.RUNNING, domain.Stage.REGISTERING)
    assert [late.id for late in await store.expired()] == [job.id], "any replica may take it"


async def test_a_higher_priority_comes_first_and_places_are_told(store: Store) -> None:
    first, second, third = [await queued(store) for _ in range(3)]
    await store.prioritize(third.id, 5)
    await store.prioritize(first.id, -1)
    places = {job.id: (await store.get(job.id)).queue_position for job in (first, second, third)}
    assert places == {third.id: 1, second.id: 2, first.id: 3}
    told = {moved.job.id: moved.events[-1].body for moved in await store.renumber_queue()}
    assert told == {third.id: domain.Queued(1), first.id: domain.Queued(3)}
    claimed = await store.claim(owner="here", token=TOKEN, lease_seconds=60)
    assert claimed is not None
    assert claimed.job.id == third.id


async def test_a_pause_takes_a_job_out_of_the_queue_and_is_a_wish_for_one_in_training(store: Store) -> None:
    waiting, training = await queued(store), await queued(store)
    await store.prioritize(training.id, 1)
    await store.claim(owner="here", token=TOKEN, lease_seconds=60)
    paused = await store.request_pause(waiting.id)
    assert paused is not None
    assert paused.job.status is JobStatus.PAUSED
    asked = await store.request_pause(training.id)
    assert asked is not None
    assert asked.job.status is JobStatus.RUNNING
    assert await store.withdraw_pause(training.id) is not None
    await report(store, training, 1, domain.Paused())
    assert (await store.get(training.id)).status is JobStatus.QUEUED, "its pause was withdrawn"
    assert await store.delete(waiting.id)


async def test_a_cancel_after_a_pause_wins(store: Store) -> None:
    job = await running(store)
    await store.request_pause(job.id)
    await store.request_cancel(job.id)
    await report(store, job, 1, domain.Paused())
    assert (await store.get(job.id)).status is JobStatus.CANCELLED
    assert (await bodies(store, job.id))[-1] == domain.Cancelled()


async def test_a_job_taken_back_waits_at_its_old_place(store: Store) -> None:
    first, second = await running(store), await queued(store)
    moved = await store.requeue(first.id, TOKEN)
    assert moved is not None
    assert [(await store.get(job.id)).queue_position for job in (first, second)] == [1, 2]
    await bodies(store, first.id)


async def test_leases_end_unless_they_are_renewed(store: Store) -> None:
    job = await running(store, lease_seconds=-1)
    assert [late.id for late in await store.expired()] == [job.id]
    assert await store.renew(job.id, TOKEN, lease_seconds=60)
    assert await store.expired() == []
    assert not await store.renew(job.id, "another", lease_seconds=60)
    assert [mine.id for mine in await store.running("here")] == [job.id]
    assert await store.running("there") == []


async def test_waiting_and_ended_jobs_are_deleted_with_their_events(store: Store) -> None:
    job = await queued(store)
    assert not await store.delete(job.id)
    await store.request_cancel(job.id)
    assert await store.delete(job.id)
    assert await store.journal.read(job.id) == []
    assert await store.journal.heads([job.id]) == {}
    assert not await store.delete(job.id)


async def test_events_are_read_by_number_kind_and_step(store: Store) -> None:
    job = await running(store)
    await report(store, job, 1, *(progress(step, loss=1 / step) for step in range(1, 5)), log())
    assert [event.sequence for event in await store.journal.read(job.id, after=4)] == [5, 6, 7]
    assert [event.sequence for event in await store.journal.read(job.id, after=2, limit=2)] == [3, 4]
    assert [event.body for event in await store.journal.read(job.id, kind="log")] == [log()]
    assert await store.journal.curve(job.id) == [(step + 2, step, 1 / step) for step in range(1, 5)]
    chosen = [event.body for event in await store.journal.at(job.id, [4, 6])]
    assert chosen == [progress(2, loss=1 / 2), progress(4, loss=1 / 4)]
    assert (await store.journal.heads([job.id]))[job.id].last_sequence == 7
