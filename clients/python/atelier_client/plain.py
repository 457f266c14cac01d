"""Messages as plain values for JSON and people: short enum names, numbers as numbers, times as RFC 3339."""

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from atelier_client.errors import InvalidArgument

Descriptor: TypeAlias = Any
"""An EnumDescriptor; the stubs know two classes of that name."""

_SAME_AS = {"euler_a": "euler_ancestral", "dpmpp": "dpmpp_2m", "fp32": "no"}  # other names people know


def to_plain(message: Message) -> dict[str, Any]:
    """`message` as a dict that json.dumps takes. Unset messages, `optional` fields, oneofs and bytes are left out."""
    plain: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        if field.type == FieldDescriptor.TYPE_BYTES or (field.has_presence and not message.HasField(field.name)):
            continue
        value = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            of = field.message_type.fields_by_name["value"]
            plain[field.name] = {str(key): _value(of, value[key]) for key in sorted(value)}
        else:
            plain[field.name] = [_value(field, each) for each in value] if field.is_repeated else _value(field, value)
    return plain


def flatten(values: Mapping[str, Any], path: str) -> Iterator[tuple[str, object]]:
    """Nested plain values one a line, by their paths; what is left to the server or empty is left out."""
    for name, value in values.items():
        here = f"{path}.{name}"
        if isinstance(value, dict):
            yield from flatten(value, here)
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for place, each in enumerate(value):
                yield from flatten(each, f"{here}[{place}]")
        elif value not in ("unspecified", []):
            yield here, ", ".join(map(str, value)) if isinstance(value, list) else value


def _value(field: Any, value: Any) -> Any:
    if isinstance(value, Timestamp):
        return value.ToJsonString()
    if field.message_type is not None:
        return to_plain(value)
    if field.enum_type is not None:
        return short_name(field.enum_type, value)
    return value


def _prefix(enum: Descriptor) -> str:
    """JOB_STATUS_ of JobStatus: what buf's STANDARD rules put before each value."""
    zero = enum.values_by_number[0].name
    return str(zero.removesuffix("UNSPECIFIED"))


def short_name(enum: Descriptor, number: int) -> str:
    """`completed` for JOB_STATUS_COMPLETED; the number in digits for a value this client does not know yet."""
    value = enum.values_by_number.get(number)
    return str(number if value is None else value.name.removeprefix(_prefix(enum)).lower())


def short_names(enum: Descriptor) -> list[str]:
    """Every short name of `enum` but `unspecified`."""
    return [short_name(enum, value.number) for value in enum.values if value.number != 0]


def number_of(enum: Descriptor, name: str, *, field: str) -> int:
    """The value that `name` means, in any case and spelling ("DPM++ 2M Karras", "euler-a").

    Raises InvalidArgument naming `field` and listing the known names.
    """
    wanted = name.strip().lower().replace("++", "pp").replace("-", "_").replace(" ", "_")
    wanted = _SAME_AS.get(wanted, wanted)
    for value in enum.values:
        if value.number != 0 and short_name(enum, value.number) == wanted:
            return int(value.number)
    raise InvalidArgument({field: f"{name!r} is not known; known are {', '.join(short_names(enum))}"})


def fill(message: Message, values: Mapping[str, Any], *, path: str) -> None:
    """Sets the fields of `message` from a dict, nested ones too; None leaves a field unset.

    Raises InvalidArgument naming `path` and the field for a name or a type that the message does not have.
    """
    for name, value in values.items():
        here = f"{path}.{name}"
        field = message.DESCRIPTOR.fields_by_name.get(name)
        if field is None:
            raise InvalidArgument({here: f"is not known; known are {', '.join(message.DESCRIPTOR.fields_by_name)}"})
        if value is None:
            continue
        try:
            if isinstance(value, Mapping):
                getattr(message, name).SetInParent()
                fill(getattr(message, name), value, path=here)
            elif field.is_repeated:
                getattr(message, name).extend([value] if isinstance(value, str) else value)
            elif field.enum_type is not None and isinstance(value, str):
                setattr(message, name, number_of(field.enum_type, value, field=here))
            else:
                setattr(message, name, value)
        except (TypeError, ValueError, AttributeError) as error:
            raise InvalidArgument({here: f"does not take {value!r}: {error}"}) from error
