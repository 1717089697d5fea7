from __future__ import annotations

from node.protocol.messages import Hello
from node.volumes.queue import Job, JobQueue


def make_job(size: int = 1, deadline: float = 10.0) -> Job:
    return Job(Hello(), (), size, deadline, lambda _result, _payload: None)


def test_the_queue_is_bounded_by_number_and_by_bytes() -> None:
    queue = JobQueue(jobs_max=3, bytes_max=100)
    assert [queue.put(make_job(60)), queue.put(make_job(60)), queue.put(make_job(40))] == [True, False, True]
    assert [queue.put(make_job(0)), queue.put(make_job(0))] == [True, False]


def test_taking_gathers_up_to_a_size_but_at_least_one() -> None:
    queue = JobQueue(jobs_max=9, bytes_max=1000)
    jobs = [make_job(size) for size in (50, 10, 10, 90)]
    assert all(queue.put(job) for job in jobs)
    assert queue.take(bytes_max=40, timeout_s=0) == jobs[:1]
    assert queue.take(bytes_max=40, timeout_s=0) == jobs[1:3]
    assert queue.take(bytes_max=40, timeout_s=0) == jobs[3:]
    assert queue.take(bytes_max=40, timeout_s=0) == []
    assert queue.put(make_job(1000))


def test_late_jobs_leave_and_make_room() -> None:
    queue = JobQueue(jobs_max=9, bytes_max=100)
    late, early = make_job(60, deadline=5.0), make_job(40, deadline=50.0)
    queue.put(late)
    queue.put(early)
    assert queue.take_late(6.0) == [late]
    assert queue.put(make_job(60))
    assert queue.take_late(6.0) == []


def test_a_closed_queue_hands_out_what_it_has_and_takes_nothing() -> None:
    queue = JobQueue(jobs_max=9, bytes_max=100)
    job = make_job()
    queue.put(job)
    queue.close()
    assert not queue.put(make_job())
    assert queue.take(bytes_max=9, timeout_s=None) == [job]
    assert queue.take(bytes_max=9, timeout_s=None) is None
