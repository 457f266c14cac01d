import hashlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from services.common.blobs import BlobMissing, BlobStore, open_blobs


def test_what_is_put_comes_back_under_its_sha256(blobs: BlobStore) -> None:
    digest = blobs.put(b"forty pictures")
    assert digest == hashlib.sha256(b"forty pictures").hexdigest()
    assert blobs.get(digest) == b"forty pictures"
    assert blobs.size(digest) == 14
    assert blobs.verify(digest)


def test_a_writer_that_is_not_committed_leaves_nothing(blobs: BlobStore) -> None:
    with blobs.writer() as writer:
        writer.write(b"half a pict")
    assert list(blobs.incoming.iterdir()) == []
    assert not blobs.exists(hashlib.sha256(b"half a pict").hexdigest())


def test_a_committed_writer_gives_digest_and_size(blobs: BlobStore) -> None:
    with blobs.writer() as writer:
        writer.write(b"one ")
        writer.write(memoryview(b"two"))
        digest, size = writer.commit()
    assert (blobs.get(digest), size) == (b"one two", 7)
    assert list(blobs.incoming.iterdir()) == []


def test_the_same_bytes_from_many_threads_are_one_blob(blobs: BlobStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        digests = set(pool.map(lambda _: blobs.put(b"same" * 1000), range(32)))
    assert len(digests) == 1
    assert blobs.verify(digests.pop())


def test_a_damaged_blob_is_told(blobs: BlobStore) -> None:
    digest = blobs.put(b"whole")
    blobs.path(digest).write_bytes(b"torn!")
    assert not blobs.verify(digest)


def test_a_missing_blob_is_named(blobs: BlobStore) -> None:
    absent = "0" * 64
    for read in (blobs.get, blobs.path, blobs.size, blobs.verify):
        with pytest.raises(BlobMissing, match=absent):
            read(absent)


@pytest.mark.parametrize("digest", ["", "../../etc/passwd", "0" * 63, "G" * 64, "0" * 64 + "\n"])
def test_only_digests_name_blobs(blobs: BlobStore, digest: str) -> None:
    with pytest.raises(ValueError, match="is not a hex SHA-256"):
        blobs.path(digest)


def test_a_store_opens_by_its_url(blobs: BlobStore) -> None:
    digest = blobs.put(b"x")
    assert open_blobs(blobs.url).get(digest) == b"x"
    with pytest.raises(ValueError, match="only file:///folder"):
        open_blobs("ftp://host/folder")
