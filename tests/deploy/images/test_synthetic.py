from __future__ import annotations

import numpy as np
import pytest

from deploy.images.synthetic import synthetic_images


@pytest.mark.parametrize("size", [(24, 32), (1, 1), (7, 200)])
def test_shape_and_type(size):
    images = synthetic_images(3, size)
    assert [(image.shape, image.dtype) for image in images] == [((*size, 3), np.dtype(np.uint8))] * 3
    assert synthetic_images(0, size) == []


def test_a_seed_fixes_them_and_more_of_them_begin_alike():
    few, many, other = synthetic_images(2, (16, 16), 5), synthetic_images(4, (16, 16), 5), synthetic_images(2, (16, 16))
    np.testing.assert_array_equal(few, many[:2])
    assert not np.array_equal(few, other)


def test_the_process_wide_random_state_is_left_alone():
    before = np.random.get_state()[1].copy()
    synthetic_images(2, (8, 8))
    assert np.array_equal(np.random.get_state()[1], before)


def test_their_means_differ_as_those_of_photographs_do():
    """Pooled features of one-scale noise are all alike, and with them every network's answers."""
    images = np.stack(synthetic_images(64, (96, 96))).astype(float)
    noise = np.random.default_rng(0).integers(0, 256, images.shape).astype(float)
    means, plain = images.mean(axis=(1, 2)), noise.mean(axis=(1, 2))
    assert means.std() > 10 * plain.std()


@pytest.mark.parametrize("block", [2, 8, 32])
def test_there_is_detail_at_every_scale(block):
    """The variance inside a block, and between blocks."""
    images = np.stack(synthetic_images(16, (96, 96))).astype(float)
    blocks = images.reshape(16, 96 // block, block, 96 // block, block, 3)
    assert blocks.std(axis=(2, 4)).mean() > 1
    assert blocks.mean(axis=(2, 4)).std(axis=(1, 2)).mean() > 5
