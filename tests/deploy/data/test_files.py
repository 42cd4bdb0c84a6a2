from __future__ import annotations

import hashlib
import random
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.data.files import digest_of, find_images, spread
from deploy.errors import InputError


def test_folders_are_searched_in_order(tree: Path) -> None:
    names = [path.relative_to(tree).as_posix() for path in find_images([tree])]
    assert names == [f"{animal}/{i}.jpg" for animal in ("ant", "bee", "cat") for i in range(4)]


def test_given_order_is_kept_and_each_file_comes_once(tree: Path) -> None:
    last = tree / "cat" / "3.jpg"
    notes = tree / "notes.txt"
    found = find_images([last, tree / "cat", notes])
    assert found == [last, *(tree / "cat" / f"{i}.jpg" for i in range(3)), notes]


def test_suffixes_of_any_case(tree: Path) -> None:
    (tree / "ant" / "0.jpg").rename(tree / "ant" / "0.JPeG")
    assert tree / "ant" / "0.JPeG" in find_images([tree])


def test_links_are_followed_but_not_in_circles(tree: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere"
    shutil.copytree(tree / "ant", other / "ant")
    (tree / "link").symlink_to(other)
    (tree / "ant" / "up").symlink_to(tree)
    assert len(find_images([tree])) == 16


def test_missing_path(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"photoz does not exist \(expected an image or a folder of images\)"):
        find_images([tmp_path / "photoz"])


def test_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(InputError, match=r"no images in .*expected files ending in \.bmp"):
        find_images([tmp_path])


@given(count=st.integers(1, 500), limit=st.integers(1, 600), seed=st.integers(0, 5))
def test_spread_is_ascending_and_repeatable(count: int, limit: int, seed: int) -> None:
    chosen = list(spread(count, limit, seed))
    assert chosen == sorted(set(chosen)) == list(spread(count, limit, seed))
    assert len(chosen) == min(count, limit)
    assert 0 <= chosen[0] <= chosen[-1] < count


def test_spread_takes_from_every_folder_alike() -> None:
    for seed in range(20):
        per_class = [0] * 10
        for index in spread(1000, 50, seed):
            per_class[index // 100] += 1
        assert per_class == [5] * 10


def test_spread_depends_on_the_seed() -> None:
    assert list(spread(1000, 20, 0)) != list(spread(1000, 20, 1))


def test_spread_refuses_no_images() -> None:
    with pytest.raises(InputError, match="got 0; expected 1 or more"):
        spread(10, 0, 0)


def test_digest_depends_on_contents_and_relative_names_only(tree: Path, tmp_path: Path) -> None:
    def digest(root: Path) -> str:
        return digest_of(find_images([root]), [root])

    original = digest(tree)
    moved = tmp_path / "moved"
    shutil.copytree(tree, moved)
    assert digest(moved) == original
    (moved / "bee" / "1.jpg").rename(moved / "bee" / "9.jpg")
    renamed = digest(moved)
    (moved / "bee" / "9.jpg").write_bytes((moved / "bee" / "2.jpg").read_bytes())
    assert len({original, renamed, digest(moved)}) == 3


def test_digest_is_what_its_docstring_says(tmp_path: Path) -> None:
    content = random.Random(0).randbytes(3_000_000)
    path = tmp_path / "big.jpg"
    path.write_bytes(content)
    line = f"{hashlib.sha256(content).hexdigest()} big.jpg\0"
    assert digest_of([path], [path]) == digest_of([path], [tmp_path]) == hashlib.sha256(line.encode()).hexdigest()
