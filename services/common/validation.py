"""The protos' own rules, evaluated: protovalidate's violations as one InvalidArgument that names every field."""

import protovalidate
from google.protobuf.message import Message

from services.common.errors import InvalidArgument


def field_path(violation: protovalidate.Violation) -> str:
    """`config.lora.rank`, `files[2].path`; the message's own rules have the path `request`."""
    path = ""
    for element in violation.proto.field.elements if violation.proto.field else ():
        path += ("." if path else "") + element.field_name
        match element.subscript:
            case None:
                pass
            case subscript:
                path += f"[{subscript.value!r}]"
    return path or "request"


def validate(message: Message) -> None:
    """Raises InvalidArgument when `message` breaks a rule of its proto."""
    violations = protovalidate.collect_violations(message)
    if violations:
        rules = {field_path(each): each.proto.message or each.proto.rule_id for each in reversed(violations)}
        raise InvalidArgument.of(dict(reversed(rules.items())))
