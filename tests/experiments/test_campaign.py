from concurrent.futures import ThreadPoolExecutor

import pytest

from experiments.campaign import Size, highest_jobs, run_all
from experiments.plan import ABLATIONS, METHODS, SYMMPO, Job, grid


def test_symmpo_and_each_ablation_are_paired_at_the_highest_rate():
    jobs = highest_jobs(Size(seeds=3, rates=(1e-5, 3e-4, 1e-4)))
    assert {job.rate for job in jobs} == {3e-4}
    for arm in (SYMMPO, *ABLATIONS):
        assert {job.seed for job in jobs if job.arm == arm.name} == {0, 1, 2}


def test_every_job_gets_its_own_result():
    jobs = grid(METHODS, (1e-4,), range(2))
    with ThreadPoolExecutor(2) as workers:
        found = run_all(workers, lambda job, setting: {"of": job.name, "in": setting}, jobs, "here")
    assert found == {job: {"of": job.name, "in": "here"} for job in jobs}


def test_the_first_failure_ends_the_rest():
    done = []

    def work(job, setting):
        done.append(job.seed)
        raise RuntimeError("no space left")

    jobs = [Job("DPO", 1e-4, seed) for seed in range(50)]
    with ThreadPoolExecutor(1) as workers, pytest.raises(RuntimeError, match="no space left"):
        run_all(workers, work, jobs, None)
    assert len(done) < len(jobs)
