"""Hot reload of real graphs in a folder: what is picked up, what is not, and that no request is lost meanwhile."""

from __future__ import annotations

import asyncio
import logging

import pytest
from serving_files import open_scale, row, write_scale

from deploy.serving.catalogue import Catalogue
from deploy.serving.errors import Unavailable, UnknownModel
from deploy.serving.messages import InferRequest
from deploy.serving.repository import Repository
from deploy.serving.service import Service
from deploy.serving.settings import ModelSettings
from deploy.serving.watch import Watcher


def repository_of(folder, **options) -> Repository:
    return Repository(look=Catalogue([folder], ModelSettings(), open_scale, 2), drain_limit=10, **options)


async def started(folder, **options) -> tuple[Repository, Watcher]:
    repository = repository_of(folder, **options)
    await repository.start()
    watcher = Watcher(repository)
    await watcher.look()
    return repository, watcher


async def twice(watcher: Watcher) -> None:
    await watcher.look()
    await watcher.look()


async def factor(repository: Repository, name: str, version: str | None = None) -> float:
    model = repository.model(name, version)
    return float((await model.batcher.infer(row(1)))["y"][0, 0])


async def index_of(repository):
    return {(each["name"], each["version"]): (each["state"], each["reason"]) for each in await repository.listed()}


def run(check):
    async def whole():
        await asyncio.wait_for(check(), 60)

    asyncio.run(whole())


def test_the_newest_version_answers_and_each_answers_as_itself(tmp_path):
    for version, value in ((2, 2), (10, 10)):
        write_scale(tmp_path / "net" / str(version) / "model.onnx", value)
    (tmp_path / "net.toml").write_text("versions = 2")

    async def check():
        repository, _ = await started(tmp_path)
        model = repository.model("net")
        assert (model.version, model.versions) == ("10", ("2", "10"))
        assert [await factor(repository, "net", version) for version in (None, "2", "10")] == [10, 2, 10]
        with pytest.raises(UnknownModel, match="expected 2 or 10"):
            repository.model("net", "1")
        assert await index_of(repository) == {("net", "2"): ("READY", ""), ("net", "10"): ("READY", "")}
        assert await repository.drain()

    run(check)


def test_new_changed_and_removed_models_and_settings_are_picked_up_at_the_second_look(tmp_path):
    write_scale(tmp_path / "kept.onnx", 2)
    gone = write_scale(tmp_path / "gone.onnx", 3)

    async def check():
        repository, watcher = await started(tmp_path)
        untouched = repository.model("kept").batcher
        write_scale(tmp_path / "new.onnx", 4)
        gone.unlink()
        await watcher.look()
        assert [model.name for model in repository.loaded()] == ["gone", "kept"]
        assert (await index_of(repository))[("new", "1")] == ("UNAVAILABLE", "not loaded")
        await watcher.look()
        assert await factor(repository, "new") == 4
        with pytest.raises(UnknownModel):
            repository.model("gone")
        assert repository.model("kept").batcher is untouched
        assert repository.ready

        write_scale(tmp_path / "kept.onnx", 5)
        await twice(watcher)
        assert await factor(repository, "kept") == 5
        (tmp_path / "kept.toml").write_text("queue = 3")
        await twice(watcher)
        assert repository.model("kept").batcher.settings.max_queue == 3
        assert await repository.drain()

    run(check)


def test_a_new_version_takes_over_and_the_old_one_goes(tmp_path):
    write_scale(tmp_path / "net" / "1" / "model.onnx", 1)

    async def check():
        repository, watcher = await started(tmp_path)
        old = repository.model("net")
        write_scale(tmp_path / "net" / "2" / "model.onnx", 2)
        await twice(watcher)
        assert repository.model("net").versions == ("2",)
        assert not old.batcher.ready
        assert repository.again(old).version == "2"
        assert await factor(repository, "net") == 2
        assert await repository.drain()

    run(check)


def test_a_file_that_grows_is_not_picked_up(tmp_path):
    write_scale(tmp_path / "net.onnx", 1)
    whole = write_scale(tmp_path / "elsewhere" / "net", 2).read_bytes()

    async def check():
        repository, watcher = await started(tmp_path)
        for end in (10, 50, len(whole)):
            (tmp_path / "net.onnx").write_bytes(whole[:end])
            await watcher.look()
            assert await factor(repository, "net") == 1
            assert await index_of(repository) == {("net", "1"): ("READY", "")}
        await watcher.look()
        assert await factor(repository, "net") == 2
        assert await repository.drain()

    run(check)


def test_what_cannot_be_loaded_leaves_the_old_one_and_is_tried_once_until_it_changes(tmp_path, caplog):
    file = write_scale(tmp_path / "net.onnx", 1)

    async def check():
        repository, watcher = await started(tmp_path)
        file.write_bytes(b"no graph")
        for _ in range(4):
            await watcher.look()
        assert await factor(repository, "net") == 1
        assert await index_of(repository) == {("net", "1"): ("READY", "what has changed cannot be loaded")}
        (said,) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
        assert said.startswith("model 'net' version 1 cannot be loaded; ONNX Runtime cannot load")
        with pytest.raises(Unavailable):
            await repository.load("net")
        (tmp_path / "net.toml").write_text("queue = 0")
        await twice(watcher)
        assert "net.toml: queue (got 0; expected" in caplog.text
        assert await factor(repository, "net") == 1
        (tmp_path / "net.toml").unlink()
        write_scale(file, 2)
        await twice(watcher)
        assert await factor(repository, "net") == 2
        assert await index_of(repository) == {("net", "1"): ("READY", "")}
        assert await repository.drain()

    with caplog.at_level(logging.ERROR, "deploy.serving"):
        run(check)


def test_a_folder_that_goes_changes_nothing_and_is_said_once(tmp_path, caplog):
    folder = tmp_path / "models"
    write_scale(folder / "net.onnx", 1)

    async def check():
        repository, watcher = await started(folder)
        folder.rename(tmp_path / "away")
        for _ in range(3):
            await watcher.look(told=True)
        assert await factor(repository, "net") == 1
        assert caplog.text.count("no such file") == 1
        assert await repository.drain()

    run(check)


def test_explicit_control_loads_what_is_asked_for(tmp_path):
    write_scale(tmp_path / "one.onnx", 1)
    two = write_scale(tmp_path / "two.onnx", 2)

    async def check():
        repository, watcher = await started(tmp_path, only=["one"])
        assert repository.ready
        assert (await index_of(repository))[("two", "1")] == ("UNAVAILABLE", "not loaded")
        write_scale(two, 3)
        write_scale(tmp_path / "new.onnx", 4)
        await twice(watcher)
        assert [model.name for model in repository.loaded()] == ["one"]
        await repository.load("two")
        await repository.load("new")
        assert (await factor(repository, "two"), await factor(repository, "new")) == (3, 4)
        await repository.unload("two")
        await watcher.look(told=True)
        assert (await index_of(repository))[("two", "1")] == ("UNAVAILABLE", "unloaded")
        assert await repository.drain()

    run(check)
    with pytest.raises(UnknownModel, match="'none'"):
        repository_of(tmp_path, only=["none"])


def test_a_load_picks_up_what_has_changed_and_what_is_new(tmp_path):
    file = write_scale(tmp_path / "net.onnx", 1)

    async def check():
        repository, _ = await started(tmp_path)
        write_scale(file, 2)
        write_scale(tmp_path / "new.onnx", 3)
        await repository.load("net")
        await repository.load("new")
        assert (await factor(repository, "net"), await factor(repository, "new")) == (2, 3)
        with pytest.raises(UnknownModel):
            await repository.load("nothing")
        assert await repository.drain()

    run(check)


def test_without_exit_on_error_the_others_are_served(tmp_path, caplog):
    write_scale(tmp_path / "good.onnx", 1)
    (tmp_path / "bad.onnx").write_bytes(b"no graph")

    async def check():
        repository = repository_of(tmp_path)
        assert not repository.ready
        await repository.start(exit_on_error=False)
        assert repository.ready
        assert (await index_of(repository))[("bad", "1")] == ("UNAVAILABLE", "it cannot be loaded")
        assert await factor(repository, "good") == 1
        assert "bad.onnx" in caplog.text
        with pytest.raises(Exception, match="bad.onnx"):
            await repository_of(tmp_path).start()
        assert await repository.drain()

    run(check)


def test_reloads_under_load_drop_no_request_and_mix_up_none(tmp_path):
    """Every answer is its request's row times a factor that was served; the model is found before the request waits."""
    file = write_scale(tmp_path / "net.onnx", 1)
    reloads = 12

    async def client(service: Service, tag: int, done: asyncio.Event) -> list[float]:
        factors = []
        while not done.is_set():
            model = service.repository.model("net")
            await asyncio.sleep(0.002 * (tag % 5))  # its body is still coming
            reply = await service.infer(model, InferRequest(feeds=row(tag), id=str(tag)))
            ((_, rows),) = reply.outputs
            assert (rows == rows[0, 0]).all()
            factors.append(round(float(rows[0, 0]) / tag, 3))
        return factors

    async def check():
        repository, watcher = await started(tmp_path)
        service, done = Service(repository), asyncio.Event()
        clients = [asyncio.create_task(client(service, tag, done)) for tag in range(1, 17)]
        for value in range(2, reloads + 2):
            await asyncio.sleep(0.02)
            write_scale(file, value)
            await watcher.look(told=True)
        done.set()
        seen = await asyncio.gather(*clients)
        assert sum(map(len, seen)) > 100
        assert {each for factors in seen for each in factors} <= set(range(1, reloads + 2))
        for factors in seen:
            assert factors == sorted(factors)  # never back to an older one
        assert await repository.drain()

    run(check)
