"""Nothing heavy runs on the event loop: while threads work, it still turns."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io

import numpy as np
import pytest
from PIL import Image
from serving_fakes import Echo

from deploy.errors import InputError
from deploy.runtime.base import Runner
from deploy.serving.bodies import compressed
from deploy.serving.errors import QueueFull, UnknownModel
from deploy.serving.repository import Repository
from deploy.serving.service import Service
from deploy.serving.settings import BatchSettings
from deploy.specs import TensorSpec

LATE = 0.05  # seconds, for a busy machine; one of the images below takes some tenths of a second to decode


class Means(Runner):
    """Mean of each channel."""

    backend, execution = "fake", "fake"
    inputs = (TensorSpec("input", "float32", ("batch", 3, 224, 224)),)
    outputs = (TensorSpec("logits", "float32", ("batch", 3)),)

    def infer(self, feeds):
        return {"logits": feeds["input"].mean(axis=(2, 3))}

    def close(self):
        pass


@contextlib.asynccontextmanager
async def timed():
    """The seconds between turns of the loop that sleeps for a millisecond in each."""
    loop, gaps = asyncio.get_running_loop(), []

    async def turn():
        while True:
            before = loop.time()
            await asyncio.sleep(0.001)
            gaps.append(loop.time() - before)

    task = asyncio.create_task(turn())
    try:
        yield gaps
    finally:
        task.cancel()


def late(gaps):
    """The share of the time that passed in turns that were late: nearly all, where the loop itself works."""
    return sum(gap for gap in gaps if gap > LATE) / sum(gaps)


def image(kind, side=2500):
    stream = io.BytesIO()
    grid = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    Image.fromarray(grid).resize((side, side)).save(stream, kind)
    return stream.getvalue()


async def service(*runners, **settings):
    repository = Repository({"m": lambda: list(runners)}, BatchSettings(**settings))
    await repository.load("m")
    return Service(repository), repository.model("m")


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_the_loop_turns_while_large_images_are_decoded(kind):
    file = image(kind)

    async def check():
        serving, model = await service(Means())
        await serving.classify(model, image(kind, 50), 1)  # what the first image loads is loaded
        async with timed() as gaps:
            answers = await asyncio.gather(*(serving.classify(model, file, 1) for _ in range(6)))
        assert all(answer["predictions"] for answer in answers)
        assert late(gaps) < 0.5, sorted(gaps)[-10:]
        await model.batcher.drain(1)

    asyncio.run(check())


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_the_loop_turns_while_a_large_reply_is_compressed(encoding):
    body = np.random.default_rng(0).bytes(24 << 20)

    async def check():
        async with timed() as gaps:
            shorter, headers = await compressed(body, encoding)
        assert headers == {"Content-Encoding": encoding}
        if encoding == "gzip":
            assert gzip.decompress(shorter) == body
        assert late(gaps) < 0.5, sorted(gaps)[-10:]

    asyncio.run(check())


def test_a_full_queue_refuses_an_image_before_it_is_decoded():
    async def check():
        serving, model = await service(Means(), max_queue=2)
        file = image("PNG", 600)
        results = await asyncio.gather(*(serving.classify(model, file, 1) for _ in range(5)), return_exceptions=True)
        assert [isinstance(result, QueueFull) for result in results] == [False, False, True, True, True]
        assert model.batcher.statistics.failures["REJECTED"].count == 3
        assert (await serving.classify(model, file, 1))["predictions"]
        await model.batcher.drain(1)

    asyncio.run(check())


def test_a_model_that_is_replaced_while_an_image_for_it_is_decoded_answers_it():
    async def check():
        repository = Repository({"m": lambda: [Means()]}, BatchSettings())
        await repository.load("m")
        serving, model = Service(repository), repository.model("m")
        under_way = asyncio.create_task(serving.classify(model, image("PNG"), 1))
        await asyncio.sleep(0)
        await repository.load("m")
        assert not model.batcher.ready
        assert (await under_way)["predictions"]
        assert repository.model("m").batcher.statistics.requests["success"].count == 1
        await repository.unload("m")
        with pytest.raises(UnknownModel):
            await serving.classify(model, image("PNG", 60), 1)

    asyncio.run(check())


def test_an_image_that_cannot_be_decoded_leaves_the_others_and_its_place_free():
    good = image("PNG", 100)

    async def check():
        serving, model = await service(Means(), max_queue=4)
        for _ in range(5):
            files = [good, good[:2000], good, b"nothing"]
            results = await asyncio.gather(
                *(serving.classify(model, file, 1) for file in files), return_exceptions=True
            )
            assert [isinstance(result, InputError) for result in results] == [False, True, False, True]
        await model.batcher.drain(1)

    asyncio.run(check())


def test_too_little_memory_for_one_image_leaves_the_others(monkeypatch):
    from deploy.serving import images

    prepare = images.preprocess

    def short_of_memory(image, preprocessing):
        if image.shape[0] == 50:
            raise MemoryError
        return prepare(image, preprocessing)

    monkeypatch.setattr(images, "preprocess", short_of_memory)

    async def check():
        serving, model = await service(Means())
        files = [image("PNG", 60), image("PNG", 50), image("PNG", 60)]
        results = await asyncio.gather(*(serving.classify(model, file, 1) for file in files), return_exceptions=True)
        assert [type(result) for result in results] == [dict, MemoryError, dict]
        await model.batcher.drain(1)

    asyncio.run(check())


def test_a_run_that_raises_now_and_then_leaves_the_model_serving():
    async def check():
        echo = Echo()
        _, model = await service(echo)
        for tag in range(1, 20):
            echo.error = MemoryError() if tag % 2 else None
            request = model.batcher.infer({"x": np.full((1, 2), tag, np.float32)})
            if tag % 2:
                with pytest.raises(MemoryError):
                    await request
            else:
                assert (await request)["y"][0, 0] == 2 * tag
        assert model.batcher.statistics.requests["success"].count == 9
        await model.batcher.drain(1)

    asyncio.run(check())
