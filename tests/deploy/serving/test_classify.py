"""``/classify`` of a detector, over the ASGI application: boxes in the pixels of the image that was sent."""

from __future__ import annotations

import asyncio
import io

import httpx
import numpy as np
import onnx
import pytest
from colours import SIDE, write_colours
from detector import LABELS as ANIMALS
from detector import detector, write_detector, write_with_nms
from graphs import saved, tensor
from PIL import Image

from deploy.graph import files
from deploy.runtime.onnxrt import OnnxRunner
from deploy.serving.batcher import BatchSettings
from deploy.serving.http import application
from deploy.serving.repository import Repository
from deploy.serving.service import Service
from deploy.specs import NmsSettings

SIZE = (320, 160)  # five pixels of the image for one of the network's
RED, BLUE = (20, 30, 120, 100), (180, 50, 300, 150)


def scene(size=SIZE, **blocks):
    """An encoded-to-be image with blocks of one colour each: name → (x1, y1, x2, y2)."""
    image = Image.new("RGB", size, (40, 40, 40))
    for colour, (x1, y1, x2, y2) in blocks.items():
        image.paste({"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}[colour], (x1, y1, x2, y2))
    return image


def encoded(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def classify(path, *bodies, form=False):
    """What the one model at ``path`` answers to each of ``bodies``, asked all at once."""

    async def asked():
        repository = Repository({"m": lambda: [OnnxRunner(path, device="cpu", threads=1)]}, BatchSettings())
        await repository.load("m")
        transport = httpx.ASGITransport(application(Service(repository)))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            given = [{"files": {"image": ("i", body)}} if form else {"content": body} for body in bodies]
            replies = await asyncio.gather(*(client.post("/v2/models/m/classify", **one) for one in given))
        await repository.drain()
        return replies

    return asyncio.run(asked())


def detections(path, *bodies, **options):
    replies = classify(path, *bodies, **options)
    assert [reply.status_code for reply in replies] == [200] * len(bodies), [reply.text for reply in replies]
    assert all(set(reply.json()) == {"model_name", "model_version", "detections"} for reply in replies)
    return [reply.json()["detections"] for reply in replies]


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    return write_colours(tmp_path_factory.mktemp("colours") / "colours.onnx")


@pytest.mark.parametrize("form", [True, False])
def test_boxes_are_where_the_blocks_are(colours, form):
    ((red, blue),) = detections(colours, encoded(scene(red=RED, blue=BLUE)), form=form)
    assert (red["label"], red["index"], blue["label"], blue["index"]) == ("red", 0, "blue", 2)
    assert (red["score"], blue["score"]) == pytest.approx((0.9, 0.7))
    assert red["box"] == pytest.approx(RED, abs=SIZE[0] / SIDE)
    assert blue["box"] == pytest.approx(BLUE, abs=SIZE[0] / SIDE)


def test_images_of_several_sizes_share_a_batch_and_keep_their_boxes(colours):
    sizes = [(64, 64), (640, 320), (100, 400)]
    found = detections(colours, *(encoded(scene(size, green=(10, 20, 50, 60))) for size in sizes))
    for size, (green,) in zip(sizes, found):
        assert green["label"] == "green"
        assert green["box"] == pytest.approx((10, 20, 50, 60), abs=max(size) / SIDE)


def test_boxes_are_those_of_the_upright_image(colours):
    exif = Image.Exif()
    exif[0x0112] = 6  # a telephone held upright: stored lying on its left side
    lying = scene(red=RED).transpose(Image.Transpose.ROTATE_90)
    ((red,),) = detections(colours, encoded(lying, "JPEG", quality=95, exif=exif.tobytes()))
    assert red["box"] == pytest.approx(RED, abs=2 * SIZE[0] / SIDE)


def test_nothing_found_is_an_empty_list(colours):
    assert detections(colours, encoded(scene())) == [[]]


def noise():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (72, 80, 3), np.uint8))


def test_nms_in_the_graph_finds_the_same(tmp_path):
    settings = NmsSettings()
    (outside,) = detections(write_detector(tmp_path / "a.onnx"), encoded(noise()))
    (inside,) = detections(write_with_nms(tmp_path / "b.onnx", settings), encoded(noise()))
    assert len(outside) > 20
    assert [one["index"] for one in inside] == [one["index"] for one in outside]
    np.testing.assert_allclose([d["box"] for d in inside], [d["box"] for d in outside], atol=1e-3)
    assert all(one["label"] == ANIMALS[one["index"]] for one in inside)


def test_a_graph_without_a_manifest_is_known_by_its_outputs(tmp_path):
    path = tmp_path / "bare.onnx"
    path.write_bytes(files.to_bytes(detector()))
    (found,) = detections(path, encoded(noise()))
    assert found
    assert {one["label"] for one in found} == {None}


def test_labels_of_another_model_are_refused(tmp_path):
    path = write_detector(tmp_path / "few.onnx", labels=ANIMALS[:2])
    (reply,) = classify(path, encoded(noise()))
    assert reply.status_code == 400
    assert "labels are not this model's" in reply.json()["error"]


def test_a_model_of_no_images_says_so(tmp_path):
    node = onnx.helper.make_node("Add", ["x", "x"], ["y"])
    path = saved(str(tmp_path / "sum.onnx"), [node], [tensor("x", ["n", 2])], [tensor("y", ["n", 2])])
    (reply,) = classify(path, encoded(noise()))
    assert reply.status_code == 400
    assert reply.json()["error"].startswith("images cannot be prepared for this model (got x float32[n, 2]")
