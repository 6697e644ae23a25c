"""Batch the requests of several clients to one policy. Knows nothing of the network."""

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np

from robodiff.deploy.session import MOST_ROWS, Question
from robodiff.errors import RobodiffError, in_one_line
from robodiff.policies.runtime import Arrays, Chunk, Runtime


@dataclass(frozen=True, eq=False)
class _Job:
    question: Question
    answer: asyncio.Future[tuple[Chunk, int, float, float]] = field(default_factory=lambda: asyncio.Future())
    asked: float = field(default_factory=time.perf_counter)


class Batcher:
    """Batch requests: those that arrive while the policy computes are computed together, in one thread."""

    def __init__(self, policy: Runtime) -> None:
        self._policy = policy
        self._waiting: list[_Job] = []
        self._wake = asyncio.Event()

    async def ask(self, question: Question) -> tuple[Chunk, int, float, float]:
        """Return the chunk, how many rows were computed together, and the seconds of waiting and of computing.

        Raises:
            RobodiffError: the policy failed.
        """
        job = _Job(question)
        self._waiting.append(job)
        self._wake.set()
        return await job.answer

    async def run(self) -> None:
        """Compute until cancelled."""
        with ThreadPoolExecutor(1) as thread:
            while True:
                await self._wake.wait()
                jobs = self._take()
                start = time.perf_counter()
                questions = [job.question for job in jobs]
                chunks = await asyncio.get_running_loop().run_in_executor(thread, predict, self._policy, questions)
                seconds = time.perf_counter() - start
                for job, chunk in zip(jobs, chunks, strict=True):
                    if job.answer.done():  # its client has gone
                        continue
                    if isinstance(chunk, RobodiffError):
                        job.answer.set_exception(chunk)
                    else:
                        rows = sum(question.rows for question in questions)
                        job.answer.set_result((chunk, rows, start - job.asked, seconds))

    def _take(self) -> list[_Job]:
        """Remove and return the jobs that have waited longest and can be computed together."""
        first, rows, jobs = self._waiting[0].question, 0, []
        for job in self._waiting:
            rows += job.question.rows
            if rows > MOST_ROWS:
                break
            if (job.question.known is None) == (first.known is None):
                jobs.append(job)
        self._waiting = [job for job in self._waiting if job not in jobs]
        if not self._waiting:
            self._wake.clear()
        return jobs


def predict(policy: Runtime, questions: Sequence[Question]) -> list[Chunk | RobodiffError]:
    """Return the answer to each question; either all questions have known actions or none.

    If they fail together, ask each alone.
    """
    first = questions[0]
    try:
        observation = first.observation  # of several chunks of a window it is encoded once
        if len(questions) > 1:
            windows = [_of_chunks(each) for each in questions]
            observation = {key: np.concatenate([each[key] for each in windows]) for key in observation}
        noise = np.concatenate([each.noise for each in questions], axis=1)
        known = None
        if first.known is not None:
            values, weights = zip(*(each.known for each in questions if each.known is not None), strict=True)
            known = np.concatenate(values), np.concatenate(weights)
        chunk = policy.predict_chunk(observation, noise=noise, known=known)
        ends = np.cumsum([each.rows for each in questions])[:-1]
        return [replace(chunk, actions=part) for part in np.split(np.asarray(chunk.actions, np.float32), ends)]
    except Exception as error:  # whatever a network, a compiler or a GPU raises
        if len(questions) > 1:
            return [chunk for each in questions for chunk in predict(policy, [each])]
        return [RobodiffError(f"the policy failed: {in_one_line(error)}")]


def _of_chunks(question: Question) -> Arrays:
    """Return what is observed for each chunk, per key (B, To, ...)."""
    return {key: np.repeat(array, question.rows // len(array), 0) for key, array in question.observation.items()}
