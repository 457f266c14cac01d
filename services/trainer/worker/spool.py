"""Rows of numbers that are written once and read at random: in memory while they are few, in a file beyond."""

import mmap
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    import torch

KEPT_BYTES = 64 << 20
"""What one spool keeps in memory."""


class Spool:
    """Takes rows of one shape and dtype and gives all of them as one tensor. Beyond `KEPT_BYTES` they go to a file in
    `folder`, which has no name and so is gone with the process, however that ends."""

    def __init__(self, folder: Path | None = None) -> None:
        """`folder` None: where the system keeps temporary files."""
        self._folder = folder
        self._kept: list[torch.Tensor] = []
        self._kept_bytes = self._rows = 0
        self._file: IO[bytes] | None = None

    def add(self, rows: "torch.Tensor") -> None:
        """(n, ...) on the CPU. Raises OSError where the disk is full."""
        self._kept.append(rows)
        self._kept_bytes += rows.nbytes
        self._rows += len(rows)
        if self._file is not None or self._kept_bytes > KEPT_BYTES:
            self._write()

    def build(self) -> "torch.Tensor":
        """(N, ...), in the order of their coming; at least one row has come. In the file, pages that are read are the
        system's to drop again."""
        import torch

        if self._file is None:
            return torch.cat(self._kept)
        shape, dtype = self._shape, self._dtype
        self._file.flush()
        # Private and writable, since torch warns of buffers that are not; nobody writes.
        mapped = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_COPY)
        self._file.close()
        return torch.frombuffer(mapped, dtype=dtype).view(self._rows, *shape)

    def _write(self) -> None:
        import torch

        if self._file is None:
            if self._folder is not None:
                self._folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115  # closed when it is mapped
            self._shape, self._dtype = self._kept[0].shape[1:], self._kept[0].dtype
        for rows in self._kept:
            self._file.write(rows.contiguous().view(torch.uint8).numpy().data)
        self._kept, self._kept_bytes = [], 0
