"""Writes the OpenAPI document: `python -m gateway.openapi DESCRIPTORS FILE`.

DESCRIPTORS is protoc's descriptor set with source info.
"""

import json
import sys
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet

from gateway.openapi.comments import comments
from gateway.openapi.document import document


def main(descriptors: Path, target: Path) -> None:
    files = FileDescriptorSet.FromString(descriptors.read_bytes())
    target.write_text(json.dumps(document(comments(files)), indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
