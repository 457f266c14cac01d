"""Safetensors files: their headers, looked at before a byte of them is believed, and their tensors.

A file is the length of its header in 8 bytes, the header in JSON, and the tensors' bytes.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.common.errors import InvalidArgument

if TYPE_CHECKING:
    import numpy

    Tensors = dict[str, numpy.ndarray[Any, Any]]

MAX_HEADER_BYTES = 32 << 20
"""A LoRA of ten thousand layers has four."""
BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
BYTES |= {"F8_E4M3": 1, "F8_E5M2": 1}
KEY = re.compile(r"[A-Za-z0-9_.]{1,400}")


def read_header(path: Path, *, field: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Each tensor's dtype, shape and place, and the metadata. Raises InvalidArgument naming `field`."""

    def refuse(rule: str, reason: str = "CORRUPT") -> InvalidArgument:
        return InvalidArgument(rule, field=field, reason=reason)

    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(9)
        check_start(start, field=field)
        length = int.from_bytes(start[:8], "little")
        if length > size - 8:
            raise refuse("is cut off in its header")
        if length > MAX_HEADER_BYTES:
            raise refuse(f"has a header of {length} bytes; the limit is {MAX_HEADER_BYTES}", "HEADER_TOO_LARGE")
        file.seek(8)
        try:
            header = json.loads(file.read(length))
            metadata = header.pop("__metadata__", {})
            _check(header, metadata, size - 8 - length)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise refuse(f"is no sound .safetensors file: {error}") from error
    return header, metadata


def check_start(start: bytes, *, field: str) -> None:
    """Raises InvalidArgument unless a file's first nine bytes are as the format has them."""
    if start[8:9] == b"{":
        return  # what comes before is a length, whatever it looks like
    if start[:2] == b"PK" or start[:1] == b"\x80":
        rule = "is a pickle (.ckpt, .pt), which can run any code when it is read: convert it to .safetensors"
        raise InvalidArgument(rule, field=field, reason="PICKLE_REFUSED")
    raise InvalidArgument("is no .safetensors file, or is cut off in its header", field=field, reason="CORRUPT")


def _check(header: Mapping[str, Any], metadata: Mapping[str, Any], data_bytes: int) -> None:
    """Raises ValueError unless every tensor lies within the data, has the bytes of its shape, and none overlap."""
    if not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its metadata is not all text")
    taken = []
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        shape, width = entry["shape"], BYTES.get(entry["dtype"])
        if not KEY.fullmatch(name) or width is None or not all(isinstance(side, int) and side >= 0 for side in shape):
            raise ValueError(f"the tensor {name[:100]!r} cannot be used")
        if not 0 <= begin <= end <= data_bytes or end - begin != width * math.prod(shape):
            raise ValueError(f"the tensor {name!r} does not lie where its shape says")
        taken.append((begin, end))
    ends = 0
    for begin, end in sorted(taken):
        if begin < ends:
            raise ValueError("two tensors share bytes")
        ends = end


def read_tensors(path: Path) -> "Tensors":
    """All of a sound file's tensors, in memory; bfloat16, which numpy has not, as float32."""
    import numpy
    import safetensors

    deserialize: Any = safetensors.deserialize  # it has no types
    kinds = {"F64": "f8", "F32": "f4", "F16": "f2", "I64": "i8", "I32": "i4", "I16": "i2", "I8": "i1", "U8": "u1"}
    tensors: Tensors = {}
    for name, about in deserialize(path.read_bytes()):
        if about["dtype"] == "BF16":
            wide = numpy.frombuffer(about["data"], "<u2").astype(numpy.uint32) << 16
            tensors[name] = wide.view(numpy.float32).reshape(about["shape"])
        else:
            tensors[name] = numpy.frombuffer(about["data"], "<" + kinds[about["dtype"]]).reshape(about["shape"])
    return tensors


def written(tensors: "Tensors", metadata: Mapping[str, str]) -> bytes:
    """A file whose metadata is in order: safetensors writes it in a random one, and equal models shall be equal files.
    The header may end in spaces."""
    import numpy
    from safetensors.numpy import save

    data = save({name: numpy.asarray(value, order="C") for name, value in tensors.items()}, dict(metadata))
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    return data[:8] + text.ljust(length) + data[8 + length :] if len(text) <= length else data


def hashes(data: bytes) -> dict[str, str]:
    """As kohya's train_util.precalculate_safetensors_hashes: of the tensors alone, and the old short one."""
    begin = 8 + int.from_bytes(data[:8], "little")
    legacy = hashlib.sha256(data[0x100000 : 0x100000 + 0x10000]).hexdigest()[:8]
    return {"sshs_model_hash": hashlib.sha256(data[begin:]).hexdigest(), "sshs_legacy_hash": legacy}
