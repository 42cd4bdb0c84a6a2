"""The batcher on fake networks. No test waits for a clock: threads are held by events, time is advanced by hand."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving_fakes import Echo, advance, run_still, settle, tagged

from deploy.errors import InputError
from deploy.serving.batcher import Batcher
from deploy.serving.errors import QueueFull, TimedOut, Unavailable
from deploy.serving.settings import BatchSettings


async def started(*runners: Echo, **options: float) -> Batcher:
    batcher = Batcher(runners, BatchSettings(**options))
    await batcher.start()
    return batcher


def ask(batcher: Batcher, *tags: float, width: int = 2, **options: float) -> asyncio.Task:
    return asyncio.create_task(batcher.infer(tagged(*tags, width=width), **options))


async def answered(task: asyncio.Task, *tags: float) -> None:
    outputs = await task
    assert outputs["y"][:, 0].tolist() == [2 * tag for tag in tags]


async def held(batcher: Batcher, runner: Echo, tag: float = 99) -> asyncio.Task:
    """A request that occupies the one instance until ``runner.gate`` is set."""
    runner.gate.clear()
    task = ask(batcher, tag)
    await settle()
    await asyncio.to_thread(runner.entered.acquire)
    return task


def test_what_queued_while_busy_runs_together_at_delay_zero():
    async def check():
        echo = Echo()
        batcher = await started(echo, max_batch=4)
        first = await held(batcher, echo)
        tasks = [ask(batcher, tag) for tag in (1, 2, 3, 4, 5)]
        await settle()
        echo.gate.set()
        await asyncio.gather(first, *(answered(task, tag) for task, tag in zip(tasks, (1, 2, 3, 4, 5))))
        assert echo.batches == [[99], [1, 2, 3, 4], [5]]

    run_still(check())


def test_a_request_is_never_split_and_one_that_overflows_sends_the_batch():
    async def check():
        echo = Echo()
        batcher = await started(echo, max_batch=4)
        first = await held(batcher, echo)
        tasks = [ask(batcher, 1, 2, 3), ask(batcher, 4, 5), ask(batcher, 6)]
        await settle()
        echo.gate.set()
        await asyncio.gather(first, answered(tasks[0], 1, 2, 3), answered(tasks[1], 4, 5), answered(tasks[2], 6))
        assert echo.batches == [[99], [1, 2, 3], [4, 5, 6]]

    run_still(check())


def test_only_equal_shapes_share_a_batch():
    async def check():
        echo = Echo()
        batcher = await started(echo, max_batch=8)
        first = await held(batcher, echo)
        tasks = [ask(batcher, 1), ask(batcher, 2), ask(batcher, 3, width=5), ask(batcher, 4)]
        await settle()
        echo.gate.set()
        await asyncio.gather(first, *(answered(task, tag) for task, tag in zip(tasks, (1, 2, 3, 4))))
        assert echo.batches == [[99], [1, 2], [3], [4]]

    run_still(check())


def test_more_rows_than_max_batch_or_none_are_refused():
    async def check():
        batcher = await started(Echo(), max_batch=2)
        for tags in ((1, 2, 3), ()):
            with pytest.raises(InputError, match="batch does not fit"):
                await batcher.infer(tagged(*tags))

    run_still(check())


def test_the_delay_counts_from_the_oldest_request():
    async def check():
        echo = Echo()
        batcher = await started(echo, max_batch=8, max_delay=1.0)
        one = ask(batcher, 1)
        await advance(0.75)
        two = ask(batcher, 2)
        await settle()
        assert batcher.waiting == 2
        await advance(0.25)
        assert batcher.waiting == 0
        await asyncio.gather(answered(one, 1), answered(two, 2))
        assert echo.batches == [[1, 2]]

    run_still(check())


def test_a_full_batch_does_not_wait_for_the_delay():
    async def check():
        echo = Echo()
        batcher = await started(echo, max_batch=2, max_delay=1.0)
        await asyncio.gather(answered(ask(batcher, 1), 1), answered(ask(batcher, 2), 2))
        assert echo.batches == [[1, 2]]

    run_still(check())


def test_priorities_go_first_and_keep_their_own_order():
    async def check():
        echo = Echo()
        batcher = await started(echo, max_batch=1, priorities=3)
        first = await held(batcher, echo)
        asked = [(1, 3), (2, 0), (3, 1), (4, 2), (5, 1), (6, 4)]  # 0 and what is no level are the middle, 2
        tasks = [ask(batcher, tag, priority=priority) for tag, priority in asked]
        await settle()
        echo.gate.set()
        await asyncio.gather(first, *tasks)
        assert echo.batches == [[99], [3], [5], [2], [4], [6], [1]]

    run_still(check())


def test_a_timeout_answers_at_the_deadline_while_the_model_is_busy():
    async def check():
        echo = Echo()
        batcher = await started(echo)
        first = await held(batcher, echo)
        late, patient = ask(batcher, 1, timeout=0.5), ask(batcher, 2, timeout=5)
        await settle()
        await advance(0.5)
        assert late.done()
        with pytest.raises(TimedOut, match="Request timeout expired"):
            await late
        echo.gate.set()
        await asyncio.gather(first, answered(patient, 2))
        assert echo.batches == [[99], [2]]

    run_still(check())


def test_a_request_that_runs_is_answered_after_its_deadline():
    async def check():
        echo = Echo()
        batcher = await started(echo)
        echo.gate.clear()
        task = ask(batcher, 1, timeout=0.5)
        await settle()
        await asyncio.to_thread(echo.entered.acquire)
        await advance(10)
        assert not task.done()
        echo.gate.set()
        await answered(task, 1)

    run_still(check())


def test_a_cancelled_request_never_starts_and_its_place_is_free():
    async def check():
        echo = Echo()
        batcher = await started(echo, max_queue=1)
        first = await held(batcher, echo)
        gone = ask(batcher, 1)
        await settle()
        with pytest.raises(QueueFull, match="Exceeds maximum queue size"):
            await batcher.infer(tagged(2))
        gone.cancel()
        await settle()
        assert gone.cancelled()
        stays = ask(batcher, 3)
        await settle()
        echo.gate.set()
        await asyncio.gather(first, answered(stays, 3))
        assert echo.batches == [[99], [3]]

    run_still(check())


def test_cancelling_one_that_runs_harms_nobody():
    async def check():
        echo = Echo()
        batcher = await started(echo)
        gone = await held(batcher, echo)
        gone.cancel()
        await settle()
        echo.gate.set()
        await answered(ask(batcher, 1), 1)

    run_still(check())


def test_two_instances_run_at_once():
    async def check():
        pair = Echo(), Echo()
        batcher = await started(*pair)
        for echo in pair:
            echo.gate.clear()
        tasks = [ask(batcher, 1), ask(batcher, 2)]
        await settle()
        await asyncio.gather(*(asyncio.to_thread(echo.entered.acquire) for echo in pair))
        for echo in pair:
            echo.gate.set()
        await asyncio.gather(answered(tasks[0], 1), answered(tasks[1], 2))
        assert [echo.batches for echo in pair] == [[[1]], [[2]]]

    run_still(check())


@pytest.mark.parametrize("preserve", [False, True])
def test_answers_leave_in_order_where_it_is_preserved(preserve):
    async def check():
        slow, fast = Echo(), Echo()
        batcher = await started(slow, fast, max_batch=1, preserve_ordering=preserve)
        slow.gate.clear()
        left = []
        tasks = [ask(batcher, tag) for tag in (1, 2, 3)]
        for tag, task in enumerate(tasks, 1):
            task.add_done_callback(lambda _, tag=tag: left.append(tag))
        await settle()
        # The third is in the network once the second has come back.
        for runner in (slow, fast, fast):
            while not runner.entered.acquire(blocking=False):
                await asyncio.sleep(0)
        await settle()
        assert left[:1] == ([] if preserve else [2])
        slow.gate.set()
        await asyncio.gather(*(answered(task, tag) for tag, task in enumerate(tasks, 1)))
        await settle()
        assert sorted(left) == [1, 2, 3]
        assert not preserve or left == [1, 2, 3]
        assert await batcher.drain(1)

    run_still(check())


def test_an_error_keeps_its_place_in_the_order_too():
    async def check():
        slow, broken = Echo(), Echo()
        broken.error = RuntimeError("broken")
        batcher = await started(slow, broken, max_batch=1, preserve_ordering=True)
        slow.gate.clear()
        first, second = ask(batcher, 1), ask(batcher, 2)
        await settle()
        for runner in (slow, broken):
            await asyncio.to_thread(runner.entered.acquire)
        await settle()
        assert not second.done()
        slow.gate.set()
        await answered(first, 1)
        with pytest.raises(RuntimeError, match="broken"):
            await second

    run_still(check())


def test_the_default_priority_and_timeout_are_those_of_requests_that_name_none():
    async def check():
        echo = Echo()
        batcher = await started(echo, max_batch=1, priorities=3, default_priority=3, timeout=0.5)
        first = await held(batcher, echo)
        late, patient, urgent = ask(batcher, 1), ask(batcher, 2, timeout=5), ask(batcher, 3, priority=2, timeout=5)
        await settle()
        await advance(0.5)
        with pytest.raises(TimedOut):
            await late
        echo.gate.set()
        await asyncio.gather(first, patient, urgent)
        assert echo.batches == [[99], [3], [2]]

    run_still(check())


def test_an_error_of_the_network_reaches_all_of_its_batch_and_no_other():
    async def check():
        echo = Echo()
        batcher = await started(echo)
        echo.error = RuntimeError("broken")
        for result in await asyncio.gather(ask(batcher, 1), ask(batcher, 2), return_exceptions=True):
            assert isinstance(result, RuntimeError)
        echo.error = None
        await answered(ask(batcher, 3), 3)
        assert batcher.statistics.failures["BACKEND"].count == batcher.statistics.fail.count == 2

    run_still(check())


def test_of_a_batch_that_fails_each_request_runs_alone_once():
    class Picky(Echo):
        def infer(self, feeds):
            outputs = super().infer(feeds)
            if (feeds["x"] == 2).any():
                raise RuntimeError("cannot run 2")
            return outputs

    async def check():
        echo = Picky()
        batcher = await started(echo)
        first = await held(batcher, echo)
        good, bad, third, also_good = (ask(batcher, tag) for tag in (1, 2, 3, 4))
        await settle()
        echo.gate.set()
        await asyncio.gather(first, answered(good, 1), answered(third, 3), answered(also_good, 4))
        with pytest.raises(RuntimeError, match="cannot run 2"):
            await bad
        assert echo.batches == [[99], [1, 2, 3, 4], [1], [2], [3], [4]]
        counted = batcher.statistics
        assert (counted.requests["success"].count, counted.failures["BACKEND"].count) == (4, 1)
        assert (counted.executions, counted.inferences) == (4, 4)  # 99 and three alone
        await answered(ask(batcher, 5), 5)

    run_still(check())


def test_a_request_whose_client_left_is_not_run_alone():
    async def check():
        echo = Echo()
        batcher = await started(echo, max_batch=2, max_delay=1.0)
        echo.error = RuntimeError("broken")
        echo.gate.clear()
        stays, leaves = ask(batcher, 1), ask(batcher, 2)
        await settle()
        await asyncio.to_thread(echo.entered.acquire)
        leaves.cancel()
        await settle()
        echo.gate.set()
        with pytest.raises(RuntimeError, match="broken"):
            await stays
        assert echo.batches == [[1, 2], [1]]

    run_still(check())


def test_not_ready_before_the_warm_up_and_not_after_the_drain():
    async def check():
        echo = Echo(width=2)
        batcher = Batcher([echo])
        with pytest.raises(Unavailable, match="not ready"):
            await batcher.infer(tagged(1))
        echo.error = RuntimeError("cannot run")
        with pytest.raises(RuntimeError):
            await batcher.start()
        assert not batcher.ready
        echo.error = None
        await batcher.start()
        assert batcher.ready
        assert await batcher.drain(1)
        assert not batcher.ready
        assert echo.closed

    run_still(check())


def test_drain_answers_what_was_accepted_without_waiting_for_the_delay():
    async def check():
        echo = Echo()
        batcher = await started(echo, max_delay=100.0)
        task = ask(batcher, 1)
        await settle()
        assert await batcher.drain(10)
        await answered(task, 1)

    run_still(check())


def test_drain_gives_up_at_its_limit_and_tells_those_who_wait():
    async def check():
        echo = Echo()
        batcher = await started(echo)
        hangs = await held(batcher, echo)
        waits = ask(batcher, 1)
        await settle()
        drain = asyncio.create_task(batcher.drain(3))
        await settle()
        await advance(3)
        assert not await drain
        for task in (hangs, waits):
            with pytest.raises(Unavailable, match="the server stops"):
                await task
        echo.gate.set()

    run_still(check())


def test_a_fixed_batch_is_filled_from_several_requests_and_padded():
    async def check():
        echo = Echo(batch=4)
        batcher = await started(echo, max_batch=1)
        assert batcher.max_batch == 4
        first = await held(batcher, echo)
        tasks = [ask(batcher, 1), ask(batcher, 2, 3)]
        await settle()
        echo.gate.set()
        await asyncio.gather(answered(first, 99), answered(tasks[0], 1), answered(tasks[1], 2, 3))
        assert echo.batches == [[99] * 4, [1, 2, 3, 3]]

    run_still(check())


def test_outputs_of_other_rows_are_never_another_s_answer():
    class Short(Echo):
        def infer(self, feeds):
            return {"y": super().infer(feeds)["y"][:1]}

    async def check():
        echo = Short()
        batcher = await started(echo)
        first = await held(batcher, echo)
        tasks = [ask(batcher, 1), ask(batcher, 2)]
        await settle()
        echo.gate.set()
        await asyncio.gather(first, answered(tasks[0], 1), answered(tasks[1], 2))
        assert echo.batches == [[99], [1, 2], [1], [2]]

    run_still(check())


def test_statistics_count_requests_rows_and_runs_as_triton_does():
    async def check():
        echo = Echo()
        batcher = await started(echo, max_batch=4)
        first = await held(batcher, echo)
        tasks = [ask(batcher, 1, 2), ask(batcher, 3)]
        await settle()
        await advance(2)
        echo.gate.set()
        await asyncio.gather(first, *tasks)
        counted = batcher.statistics.as_dict()
        assert (counted["inference_count"], counted["execution_count"]) == (4, 2)
        assert counted["inference_stats"]["success"]["count"] == 3
        assert counted["inference_stats"]["queue"] == {"count": 3, "ns": 4_000_000_000}
        assert [(batch["batch_size"], batch["compute_infer"]["count"]) for batch in counted["batch_stats"]] == [
            (1, 1),
            (3, 1),
        ]

    run_still(check())


@pytest.mark.parametrize(
    ("field", "value"),
    [("max_batch", 0), ("max_queue", 0), ("max_delay", -1), ("priorities", 0), ("default_priority", 2)],
)
def test_settings_that_mean_nothing_are_refused(field, value):
    with pytest.raises(InputError):
        BatchSettings(**{field: value})


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.integers(1, 3), st.sampled_from([2, 3]), st.integers(0, 2)),
        st.tuples(st.just("cancel"), st.integers(0, 30)),
        st.tuples(st.just("advance"), st.sampled_from([0.1, 0.5, 1.0])),
        st.tuples(st.just("settle")),
    ),
    max_size=30,
)


@settings(deadline=None, max_examples=100)
@given(STEPS, st.integers(1, 2), st.sampled_from([0.0, 0.5]))
def test_every_answer_is_its_request_s_whatever_the_order(steps, instances, delay):
    async def check():
        runners = [Echo() for _ in range(instances)]
        batcher = await started(*runners, max_batch=4, max_delay=delay, priorities=2)
        asked: list[tuple[asyncio.Task, list[float]]] = []
        tag = 0
        for step in steps:
            if step[0] == "ask":
                tags = [float(tag := tag + 1) for _ in range(step[1])]
                asked.append((ask(batcher, *tags, width=step[2], priority=step[3]), tags))
            elif step[0] == "cancel" and asked:
                asked[step[1] % len(asked)][0].cancel()
            elif step[0] == "advance":
                await advance(step[1])
            else:
                await settle()
        await settle()
        assert await batcher.drain(1)
        for task, tags in asked:
            if not task.cancelled():
                np.testing.assert_array_equal((await task)["y"][:, 0], [2 * each for each in tags])
        seen = [row for runner in runners for batch in runner.batches for row in batch]
        assert len(seen) == len(set(seen))
        assert all(len(batch) <= 4 for runner in runners for batch in runner.batches)

    run_still(check())


def test_a_full_batch_behind_a_running_one_starts_without_the_event_loop():
    async def check():
        echo = Echo()
        batcher = await started(echo, max_batch=2)
        first = await held(batcher, echo)
        tasks = [ask(batcher, tag) for tag in (1, 2, 3)]
        await settle()
        assert batcher.waiting == 3
        echo.gate.set()
        assert echo.entered.acquire(timeout=30)  # the loop stands still here
        assert echo.batches == [[99], [1, 2]]
        await asyncio.gather(first, *(answered(task, tag) for task, tag in zip(tasks, (1, 2, 3))))
        assert echo.batches[2:] == [[3]]
        assert batcher.waiting == 0

    run_still(check())


def test_what_is_given_up_behind_a_running_batch_does_not_run():
    async def check():
        echo = Echo()
        batcher = await started(echo, max_batch=2)
        first = await held(batcher, echo)
        kept, dropped, late, alone = ask(batcher, 1), ask(batcher, 2), ask(batcher, 3, timeout=1.0), ask(batcher, 4)
        await settle()
        dropped.cancel()
        await advance(1.0)
        with pytest.raises(TimedOut):
            await late
        echo.gate.set()
        await asyncio.gather(first, answered(kept, 1), answered(alone, 4))
        assert echo.batches == [[99], [1], [4]]
        assert {name: one.count for name, one in batcher.statistics.failures.items() if one.count} == {
            "CANCELED": 1,
            "REJECTED": 1,
        }

    run_still(check())


def test_the_deadline_of_a_request_behind_a_running_batch_ends_when_it_starts():
    async def check():
        echo = Echo()
        batcher = await started(echo, max_batch=1)
        first = await held(batcher, echo)
        task = ask(batcher, 1, timeout=1.0)
        await settle()
        echo.gate.set()
        await first
        echo.gate.clear()  # the second may have gone through: then it is answered all the same
        await advance(2.0)
        echo.gate.set()
        await answered(task, 1)

    run_still(check())


def test_with_priorities_nothing_is_sent_ahead():
    async def check():
        echo = Echo()
        batcher = await started(echo, max_batch=1, priorities=2)
        first = await held(batcher, echo)
        low = ask(batcher, 1, priority=2)
        await settle()
        high = ask(batcher, 2, priority=1)
        await settle()
        echo.gate.set()
        await asyncio.gather(first, low, high)
        assert echo.batches == [[99], [2], [1]]

    run_still(check())


def test_with_preserved_ordering_answers_leave_as_their_runs_were_sent():
    async def check():
        slow, fast = Echo(), Echo()
        batcher = await started(slow, fast, max_batch=1, preserve_ordering=True)
        slow.gate.clear()
        order = []
        tasks = [ask(batcher, tag) for tag in (1, 2, 3)]
        for tag, task in enumerate(tasks, 1):
            task.add_done_callback(lambda _, tag=tag: order.append(tag))
        await settle()
        for _ in range(2):
            await asyncio.to_thread(fast.entered.acquire)
        await settle()
        assert order == []
        slow.gate.set()
        await asyncio.gather(*(answered(task, tag) for tag, task in enumerate(tasks, 1)))
        assert order == [1, 2, 3]

    run_still(check())


def test_with_several_instances_nothing_stands_behind_a_busy_one():
    async def check():
        slow, fast = Echo(), Echo()
        batcher = await started(slow, fast, max_batch=1)
        slow.gate.clear()
        tasks = [ask(batcher, tag) for tag in (1, 2, 3)]
        await asyncio.gather(*(answered(task, tag) for tag, task in enumerate(tasks[1:], 2)))
        slow.gate.set()
        await answered(tasks[0], 1)

    run_still(check())


def test_what_stands_behind_a_failing_batch_runs_behind_its_retries():
    async def check():
        echo = Echo()
        batcher = await started(echo, max_batch=2)
        first = await held(batcher, echo)
        bad, behind = [ask(batcher, tag) for tag in (1, 2)], [ask(batcher, tag) for tag in (3, 4)]
        await settle()
        infer, runs = echo.infer, []

        def fails_together(feeds):
            runs.append(feeds["x"][:, 0].tolist())
            if runs[-1] == [1, 2]:
                raise RuntimeError("together")
            return infer(feeds)

        echo.infer = fails_together
        echo.gate.set()
        await asyncio.gather(first, answered(bad[0], 1), answered(bad[1], 2))
        await asyncio.gather(answered(behind[0], 3), answered(behind[1], 4))
        assert runs == [[1, 2], [1], [2], [3, 4]]
        assert all(one.started is not None for instance in batcher._instances for one in instance.runs)

    run_still(check())
