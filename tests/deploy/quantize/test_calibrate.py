from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from deploy.errors import InputError
from deploy.graph.placement import place
from deploy.quantize.calibrate import calibrate, settled_after
from deploy.quantize.observers import HistogramObserver
from deploy.quantize.ranges import METHODS


class Arrays:
    """Calibration data from memory."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def digest(self):
        return "0" * 64

    def describe(self):
        return f"{len(self)} arrays"

    def batches(self, batch_size):
        for start in range(0, len(self), batch_size):
            yield {"input": self.images[start : start + batch_size]}


@pytest.fixture
def tensors(mini):
    return place(mini).tensors


def test_max_is_what_onnx_runtime_computes(mini, tensors, images, ranges):
    result = calibrate(mini, tensors, Arrays(images), "max", batch_size=3)
    expected = ranges(mini, tensors)
    assert set(result.amax) == set(tensors)
    assert result.amax == pytest.approx(expected, rel=1e-5)
    assert (result.method, result.images) == ("max", len(images))


@pytest.mark.parametrize("method", METHODS)
def test_the_split_into_batches_does_not_matter(mini, tensors, images, method):
    one, many = (calibrate(mini, tensors, Arrays(images), method, batch_size=size) for size in (8, 3))
    # Kernels for other batch sizes sum in another order; a value may fall into the next bin.
    assert one.amax == pytest.approx(many.amax, rel=2e-2)
    assert one.peak == pytest.approx(many.peak, rel=1e-5)


def test_methods_that_clip_do(mini, tensors, images):
    result = calibrate(mini, tensors, Arrays(images), "mse")
    assert all(result.amax[name] <= result.peak[name] for name in tensors)
    assert any(result.amax[name] < 0.9 * result.peak[name] for name in tensors)


def test_progress_is_told(mini, tensors, images):
    told = []
    calibrate(mini, tensors, Arrays(images), batch_size=3, progress=lambda done, total: told.append((done, total)))
    assert told == [(3, 8), (6, 8), (8, 8)]


def test_a_batch_is_cut_to_what_fits_in_memory(mini, tensors, images, monkeypatch):
    sizes = []
    monkeypatch.setattr(Arrays, "batches", lambda self, size: sizes.append(size) or batches(self, size))
    calibrate(mini, tensors, Arrays(images))
    per_image = sum(4 * images[0].size if name == "input" else 4 * 16 * 16 * 16 for name in tensors)
    for memory in (2 * per_image, 1):
        monkeypatch.setattr("deploy.quantize.calibrate.MEMORY", memory)
        calibrate(mini, tensors, Arrays(images))
    assert sizes[0] == 8
    assert 1 <= sizes[1] < 8
    assert sizes[2] == 1


batches = Arrays.batches


def test_the_model_is_unchanged(mini, tensors, images):
    before = ir.to_proto(mini).SerializeToString(deterministic=True)
    calibrate(mini, tensors, Arrays(images))
    assert ir.to_proto(mini).SerializeToString(deterministic=True) == before


def test_nan_names_tensor_and_batch(mini, images):
    images[5] = np.nan
    with pytest.raises(InputError, match=r"tensor 'wide' holds NaN or infinity \(got max \|x\| is nan in batch 1"):
        calibrate(mini, ["wide"], Arrays(images), batch_size=4)


@pytest.mark.parametrize(
    ("tensors", "method", "count", "text"),
    [
        (["nothing"], "max", 8, "the graph has no such tensor (got nothing"),
        (["wide"], "best", 8, "unknown calibration method (got best; expected max, percentile, entropy, mse)"),
        (["wide"], "max", 0, "there are no images to calibrate with (got 0 arrays"),
    ],
)
def test_wrong_input(mini, images, tensors, method, count, text):
    with pytest.raises(InputError) as caught:
        calibrate(mini, tensors, Arrays(images[:count]), method)
    assert text in str(caught.value)


def test_a_tensor_that_is_always_zero_has_range_zero(net, images):
    zero = net.op("Mul", "zero", "input", net.constant("factor", np.float32(0)))
    model = net.model(net.conv("out", zero, (3, 16)), ["batch", 16, 16, 16])
    for method in METHODS:
        assert calibrate(model, ["zero"], Arrays(images), method).amax == {"zero": 0.0}


@pytest.mark.parametrize("method", METHODS)
def test_how_far_ranges_were_on_the_way_is_kept(mini, tensors, images, method):
    quiet = np.tile(images, (6, 1, 1, 1))
    loud = np.concatenate([quiet[:40], 4 * quiet[40:]])
    settled = calibrate(mini, tensors, Arrays(quiet), method).convergence
    moving = calibrate(mini, tensors, Arrays(loud), method).convergence
    assert list(settled) == list(moving) == [16, 32]
    assert settled_after(settled) == 16
    assert moving[32] > 3
    assert settled_after(moving) is None


def test_the_first_of_the_last_looks_that_changed_nothing_counts():
    assert settled_after({16: 0.1, 32: 0.9, 64: 0.2, 128: 0.1}) == 64
    assert settled_after({16: 0.1, 32: 0.9}) is None
    assert settled_after({}) is None


def test_what_a_channel_matters_is_counted(net, images):
    """One loud channel that matters little, and one quiet one that matters: the range is the quiet one's."""
    model = net.model(net.conv("out", "input", (3, 16)), ["batch", 16, 16, 16])
    loud = images * np.float32([100, 0.1, 0.1]).reshape(1, 3, 1, 1)
    equal, quiet = (
        calibrate(model, ["input"], Arrays(loud), importance=importance).amax["input"]
        for importance in ({"input": np.ones(3)}, {"input": np.array([1e-6, 1, 1])})
    )
    assert calibrate(model, ["input"], Arrays(loud)).amax["input"] == equal
    assert quiet < 0.5 * equal


def test_a_channel_counts_as_often_as_it_matters():
    """Beside a histogram in which its values really are repeated."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(4, 3, 5, 5)).astype(np.float32)
    weighted, repeated = HistogramObserver(np.array([0.5, 1, 0.2])), HistogramObserver()
    weighted.observe(values)
    for channel, times in enumerate((5, 10, 2)):
        repeated.observe(np.repeat(values[:, channel], times))
    np.testing.assert_array_equal(weighted.histogram.counts, 100_000 * repeated.histogram.counts)
    assert weighted.histogram.limit == repeated.histogram.limit
