"""Gathers the schemas that our protos import into one folder that buf and protoc both read.

`google/api` and `google/rpc` lie as text in the googleapis-common-protos wheel. protovalidate's wheel carries
`buf/validate/validate.proto` only as a descriptor, so its text is printed from that.
Neither is copied into the repository.

Usage: `python protos/gather.py .imports`
"""

import importlib.resources
import shutil
import sys
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)
from protovalidate._gen.buf.validate import validate_pb  # the only carrier of the schema on PyPI (2.1)

GOOGLE_API = ("annotations.proto", "http.proto", "httpbody.proto")
GOOGLE_RPC = ("error_details.proto", "status.proto")  # what errors carry: clients read it
LABELS = {1: "optional ", 2: "required ", 3: "repeated "}
SCALARS = {
    value: name.removeprefix("TYPE_").lower()
    for name, value in FieldDescriptorProto.Type.items()
    if name not in ("TYPE_MESSAGE", "TYPE_ENUM", "TYPE_GROUP")
}


def field_text(field: FieldDescriptorProto, file: FileDescriptorProto, *, in_oneof: bool) -> str:
    kind = SCALARS.get(field.type) or field.type_name
    label = "" if in_oneof or (file.syntax == "proto3" and field.label != 3) else LABELS[field.label]
    return f"{label}{kind} {field.name} = {field.number};"


def ranges_text(message: DescriptorProto) -> list[str]:
    lines = []
    for extension in message.extension_range:
        end = "max" if extension.end > 0x1FFFFFFF else str(extension.end - 1)
        lines.append(f"extensions {extension.start} to {end};")
    for reserved in message.reserved_range:
        lines.append(f"reserved {reserved.start} to {reserved.end - 1};")
    lines += [f'reserved "{name}";' for name in message.reserved_name]
    return lines


def enum_lines(enum: EnumDescriptorProto) -> list[str]:
    values = [f"  {value.name} = {value.number};" for value in enum.value]
    alias = ["  option allow_alias = true;"] if enum.options.allow_alias else []
    return [f"enum {enum.name} {{", *alias, *values, "}"]


def message_lines(message: DescriptorProto, file: FileDescriptorProto) -> list[str]:
    body = ranges_text(message)
    for nested in message.nested_type:
        body += message_lines(nested, file)
    for enum in message.enum_type:
        body += enum_lines(enum)
    for index, oneof in enumerate(message.oneof_decl):
        members = [
            f for f in message.field if f.HasField("oneof_index") and f.oneof_index == index and not f.proto3_optional
        ]
        if members:
            body += [f"oneof {oneof.name} {{", *(f"  {field_text(f, file, in_oneof=True)}" for f in members), "}"]
    for field in message.field:
        if not field.HasField("oneof_index"):
            body.append(field_text(field, file, in_oneof=False))
        elif field.proto3_optional:
            body.append("optional " + field_text(field, file, in_oneof=True))
    return [f"message {message.name} {{", *(f"  {line}" for line in body), "}"]


def file_text(file: FileDescriptorProto) -> str:
    """The .proto text of a descriptor: everything but comments and custom options."""
    lines = [f'syntax = "{file.syntax or "proto2"}";', f"package {file.package};"]
    lines += [f'import "{name}";' for name in file.dependency]
    for extension in file.extension:
        lines += [f"extend {extension.extendee} {{", f"  {field_text(extension, file, in_oneof=False)}", "}"]
    for enum in file.enum_type:
        lines += enum_lines(enum)
    for message in file.message_type:
        lines += message_lines(message, file)
    return "\n".join(lines) + "\n"


def main(target: Path) -> None:
    for package, names in (("google.api", GOOGLE_API), ("google.rpc", GOOGLE_RPC)):
        folder = target / package.replace(".", "/")
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            with importlib.resources.as_file(importlib.resources.files(package) / name) as source:
                shutil.copyfile(source, folder / name)
    descriptor = FileDescriptorProto.FromString(validate_pb.desc().proto.to_binary())
    (target / "buf/validate").mkdir(parents=True, exist_ok=True)
    (target / "buf/validate/validate.proto").write_text(file_text(descriptor))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
