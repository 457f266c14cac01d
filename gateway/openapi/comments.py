"""The comments of the protos: protoc keeps them where it is asked for source info, generated modules drop them."""

from collections.abc import Iterable, Iterator

from google.protobuf.descriptor_pb2 import DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet

# Numbers of fields in descriptor.proto, of which the paths of source info are made.
MESSAGES, ENUMS, SERVICES = 4, 5, 6
FIELDS, NESTED, NESTED_ENUMS, METHODS, VALUES = 2, 3, 4, 2, 2
Named = Iterator[tuple[tuple[int, ...], str]]


def comments(files: FileDescriptorSet) -> dict[str, str]:
    """Full name -> the comment that stands before it."""
    found: dict[str, str] = {}
    for file in files.file:
        names = dict(named(file))
        for location in file.source_code_info.location:
            name = names.get(tuple(location.path))
            if name and location.leading_comments:
                found[name] = tidy(location.leading_comments)
    return found


def tidy(comment: str) -> str:
    """Its paragraphs, each on one line."""
    paragraphs = "\n".join(line.strip() for line in comment.strip().splitlines()).split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def named(file: FileDescriptorProto) -> Named:
    """Where each thing's source info is, and its full name."""
    prefix = file.package
    yield from of_messages(file.message_type, (MESSAGES,), prefix)
    yield from of_enums(file.enum_type, (ENUMS,), prefix)
    for number, service in enumerate(file.service):
        yield (SERVICES, number), f"{prefix}.{service.name}"
        for place, method in enumerate(service.method):
            yield (SERVICES, number, METHODS, place), f"{prefix}.{service.name}.{method.name}"


def of_messages(messages: Iterable[DescriptorProto], path: tuple[int, ...], prefix: str) -> Named:
    for number, message in enumerate(messages):
        here, name = (*path, number), f"{prefix}.{message.name}"
        yield here, name
        for place, field in enumerate(message.field):
            yield (*here, FIELDS, place), f"{name}.{field.name}"
        yield from of_messages(message.nested_type, (*here, NESTED), name)
        yield from of_enums(message.enum_type, (*here, NESTED_ENUMS), name)


def of_enums(enums: Iterable[EnumDescriptorProto], path: tuple[int, ...], prefix: str) -> Named:
    for number, enum in enumerate(enums):
        here, name = (*path, number), f"{prefix}.{enum.name}"
        yield here, name
        for place, value in enumerate(enum.value):
            yield (*here, VALUES, place), f"{name}.{value.name}"
