"""What waits while the policy computes is computed together, and one question's failure is its own."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from tests.deploy.serving import Plain, seen

from robodiff.deploy.batching import Batcher, predict
from robodiff.deploy.session import Question
from robodiff.errors import RobodiffError
from robodiff.policies.runtime import Chunk


def question(number: float, rows: int = 1, known: float | None = None) -> Question:
    window = {key: np.stack([[value] * 2] * rows).astype(np.float32) for key, value in seen(number).items()}
    given = None if known is None else (np.full((rows, 8, 2), known, np.float32), np.ones((rows, 8, 2), bool))
    return Question(window, np.zeros((1, rows, 8, 2), np.float32), given)


def test_what_waits_is_computed_together_as_far_as_it_goes() -> None:
    policy = Plain()

    async def main() -> list[tuple[Chunk, int, float, float]]:
        batcher = Batcher(policy)
        computing = asyncio.create_task(batcher.run())
        policy.free.clear()
        first = asyncio.create_task(batcher.ask(question(0)))
        while not policy.batches:
            await asyncio.sleep(0.001)
        asked = [question(1), question(2, rows=2), question(3, known=9.0), question(4), question(5, rows=253)]
        rest = [asyncio.create_task(batcher.ask(each)) for each in asked]
        await asyncio.sleep(0)  # all are asked
        policy.free.set()
        answers = await asyncio.gather(first, *rest)
        computing.cancel()
        return answers

    answers = asyncio.run(main())
    assert policy.batches == [1, 4, 1, 253]
    assert [rows for _, rows, _, _ in answers] == [1, 4, 4, 1, 4, 253]
    assert [chunk.actions.shape[0] for chunk, *_ in answers] == [1, 1, 2, 1, 1, 253]
    assert [chunk.actions.mean() for chunk, *_ in answers] == [0, 1, 2, 9, 4, 5]
    assert all(waited >= 0 and computed > 0 for _, _, waited, computed in answers)


def test_a_question_that_fails_does_not_take_the_others_with_it() -> None:
    good, bad, other = predict(Plain(), [question(1), question(404), question(2)])
    assert isinstance(good, Chunk)
    assert isinstance(other, Chunk)
    assert (good.actions.mean(), other.actions.mean()) == (1, 2)
    assert isinstance(bad, RobodiffError)
    assert str(bad).startswith("the policy failed: RuntimeError: out of memory")


def test_a_window_of_several_chunks_is_repeated_only_beside_other_questions() -> None:
    asked, windows = replace(question(1), noise=np.zeros((1, 3, 8, 2), np.float32)), list[int]()

    class Counting(Plain):
        def predict_chunk(self, observation: Mapping[str, np.ndarray], **options: Any) -> Chunk:
            windows.append(len(observation["observation.state"]))
            return super().predict_chunk(observation, **options)

    for questions in ([asked], [asked, question(2)]):
        chunks = [chunk.actions for chunk in predict(Counting(), questions) if isinstance(chunk, Chunk)]
        assert [(len(actions), actions.mean()) for actions in chunks] == [(3, 1), (1, 2)][: len(questions)]
    assert windows == [1, 4]


def test_nobody_waits_for_an_answer_any_more() -> None:
    policy = Plain()

    async def main() -> Chunk:
        batcher = Batcher(policy)
        computing = asyncio.create_task(batcher.run())
        policy.free.clear()
        given_up = asyncio.create_task(batcher.ask(question(1)))
        while not policy.batches:
            await asyncio.sleep(0.001)
        given_up.cancel()
        policy.free.set()
        chunk, *_ = await batcher.ask(question(2))
        computing.cancel()
        return chunk

    assert asyncio.run(main()).actions.mean() == 2
