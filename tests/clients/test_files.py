"""Which files an upload takes, and their captions."""

import hashlib
from pathlib import Path

import pytest
from atelier_client.errors import InvalidArgument
from atelier_client.files import find_files, read_caption, read_images, read_metadata


def put(folder: Path, *names: str, content: bytes = b"x") -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def test_a_folder_is_walked_in_sorted_order_and_only_images_are_taken(tmp_path: Path) -> None:
    put(tmp_path, "b.png", "a.JPG", "sub/c.webp", "a.txt", "metadata.jsonl", "LICENSE", ".hidden.png", ".git/x.png")
    assert [str(file.relative_to(tmp_path)) for file in find_files([tmp_path])] == ["a.JPG", "b.png", "sub/c.webp"]


def test_a_gif_is_sent_so_that_the_service_says_why_it_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "moving.gif")
    assert find_files([tmp_path]) == [tmp_path / "moving.gif"]


def test_a_file_named_by_hand_is_taken_whatever_its_suffix_and_once(tmp_path: Path) -> None:
    put(tmp_path, "odd.bin", "a.png")
    files = find_files([tmp_path / "odd.bin", str(tmp_path), tmp_path / "a.png"])
    assert files == [tmp_path / "odd.bin", tmp_path / "a.png"]


def test_a_path_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"there is no file or folder .*nowhere"):
        find_files([tmp_path / "nowhere"])


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "notes.txt")
    with pytest.raises(InvalidArgument, match="no image files"):
        find_files([tmp_path])


def test_clips_are_taken_from_a_folder(tmp_path: Path) -> None:
    put(tmp_path, "a.mp4", "b.MOV", "c.webm", "notes.md")
    assert [file.name for file in find_files([tmp_path])] == ["a.mp4", "b.MOV", "c.webm"]


@pytest.mark.parametrize("mask", ["cat-masklabel.png", "cat.mask.png", "masks/cat.png", "masks/cat.webp"])
def test_a_mask_beside_a_picture_belongs_to_it_and_is_no_picture(tmp_path: Path, mask: str) -> None:
    put(tmp_path, "cat.jpg", "dog.png", mask)
    files = find_files([tmp_path])
    assert [file.name for file in files] == ["cat.jpg", "dog.png"]
    images, _ = read_images(files)
    assert [image.mask for image in images] == [tmp_path / mask, None]


def test_what_is_named_like_a_mask_and_has_no_picture_is_a_picture(tmp_path: Path) -> None:
    put(tmp_path, "cat-masklabel.png", "masks/venice.png")
    files = find_files([tmp_path])
    assert [str(file.relative_to(tmp_path)) for file in files] == ["cat-masklabel.png", "masks/venice.png"]
    assert [image.mask for image in read_images(files)[0]] == [None, None]


def test_a_caption_comes_from_txt_then_caption_then_metadata(tmp_path: Path) -> None:
    metadata = {"a.png": "from metadata"}
    image = tmp_path / "a.png"
    assert read_caption(image, {}) == ""
    assert read_caption(image, metadata) == "from metadata"
    (tmp_path / "a.caption").write_text("from caption\n")
    assert read_caption(image, metadata) == "from caption"
    (tmp_path / "a.txt").write_bytes("\ufefféclair, pâte 🥐\n".encode())
    assert read_caption(image, metadata) == "éclair, pâte 🥐"


def test_metadata_takes_text_prompt_or_caption(tmp_path: Path) -> None:
    file = tmp_path / "metadata.jsonl"
    file.write_text(
        '{"file_name": "a.png", "text": "one"}\n\n{"file_name": "b.png", "prompt": "two"}\n{"file_name": "c"}\n'
    )
    assert read_metadata(file) == {"a.png": "one", "b.png": "two", "c": ""}


@pytest.mark.parametrize("line", ["{", "[]", '{"text": "no name"}', "3"])
def test_a_broken_metadata_line_is_named_by_its_number(tmp_path: Path, line: str) -> None:
    file = tmp_path / "metadata.jsonl"
    file.write_text('{"file_name": "a.png", "text": "one"}\n' + line + "\n")
    with pytest.raises(InvalidArgument, match=r"metadata\.jsonl line 2"):
        read_metadata(file)


def test_a_caption_that_is_not_utf8_is_named_and_not_guessed(tmp_path: Path) -> None:
    put(tmp_path, "a.png")
    (tmp_path / "a.txt").write_bytes("éclair".encode("latin-1"))
    with pytest.raises(InvalidArgument, match=r"a\.txt: is not UTF-8 text"):
        read_images([tmp_path / "a.png"])


def test_images_carry_their_size_and_digest(tmp_path: Path) -> None:
    put(tmp_path, "a.png", content=b"hello")
    (image,), unreadable = read_images([tmp_path / "a.png"])
    assert (image.size_bytes, image.sha256) == (5, hashlib.sha256(b"hello").hexdigest())
    assert unreadable == {}


def test_a_file_that_cannot_be_read_is_reported_and_does_not_sink_the_rest(tmp_path: Path) -> None:
    put(tmp_path, "a.png")
    broken = tmp_path / "b.png"
    broken.symlink_to(tmp_path / "gone.png")
    images, unreadable = read_images([tmp_path / "a.png", broken])
    assert [image.path.name for image in images] == ["a.png"]
    assert "No such file" in unreadable[broken]
