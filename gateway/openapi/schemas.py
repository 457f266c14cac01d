"""Messages as JSON schemas, in protobuf's JSON with the names of the protos, as the edge writes and reads it."""

from collections.abc import Mapping
from typing import Any

from buf.validate import validate_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

Schema = dict[str, Any]
INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: "int32",
    FieldDescriptor.CPPTYPE_UINT32: "uint32",
}
LONGS = {FieldDescriptor.CPPTYPE_INT64: "int64", FieldDescriptor.CPPTYPE_UINT64: "uint64"}
WELL_KNOWN: dict[str, Schema] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {"type": "string"},
    "google.protobuf.FieldMask": {"type": "string", "description": "Names of fields, with commas between them."},
    "google.protobuf.Any": {
        "type": "object",
        "properties": {"@type": {"type": "string"}},
        "additionalProperties": True,
    },
    "google.api.HttpBody": {},
}
LIMITS = {
    "gte": "minimum",
    "lte": "maximum",
    "gt": "exclusiveMinimum",
    "lt": "exclusiveMaximum",
    "min_len": "minLength",
    "max_len": "maxLength",
    "pattern": "pattern",
    "min_items": "minItems",
    "max_items": "maxItems",
    "unique": "uniqueItems",
    "const": "const",
}
"""protovalidate's rules that JSON Schema has too, each under its name there."""


NO_RULES = validate_pb2.FieldRules()


class Schemas:
    """Schemas of all messages and enums that were asked for, each once.

    Rules are for requests. A message with rules that answers carry too has a second schema there, `.Answer`, without
    them: an answer may hold an unset 0 that nobody could have asked for.
    """

    def __init__(self, comments: Mapping[str, str]) -> None:
        self._comments = comments
        self.components: dict[str, Schema] = {}

    def described(self, name: str, schema: Schema) -> Schema:
        """`schema` with the comment of `name`, where there is one, before what it says itself."""
        words = [each for each in (self._comments.get(name), schema.get("description")) if each]
        return {**schema, "description": "\n\n".join(words)} if words else schema

    def message(self, message: Descriptor, *, answers: bool = False) -> Schema:
        """A reference to its schema, as requests or as `answers` carry it."""
        if message.full_name in WELL_KNOWN:
            return WELL_KNOWN[message.full_name]
        apart = answers and has_rules(message)
        name = f"{message.full_name}.Answer" if apart else message.full_name
        if name not in self.components:
            self.components[name] = {}  # it may hold itself
            schema = self.object_of(message, list(message.fields), answers=apart)
            self.components[name] = self.described(message.full_name, schema)
        return {"$ref": f"#/components/schemas/{name}"}

    def object_of(self, message: Descriptor, fields: list[FieldDescriptor], *, answers: bool = False) -> Schema:
        """The schema of a message with some of its fields."""
        properties = {field.name: self.field(field, answers=answers) for field in fields}
        schema: Schema = {"type": "object", "properties": properties}
        if required := [field.name for field in fields if rules_of(field).required and not answers]:
            schema["required"] = required
        choices = [
            f"At most one of {', '.join(field.name for field in oneof.fields)}."
            for oneof in message.oneofs
            if len(oneof.fields) > 1 and set(oneof.fields) <= set(fields)
        ]
        return {**schema, "description": " ".join(choices)} if choices else schema

    def field(self, field: FieldDescriptor, *, answers: bool = False) -> Schema:
        rules = NO_RULES if answers else rules_of(field)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            value = self.single(field.message_type.fields_by_name["value"], rules, answers=answers)
            schema: Schema = {"type": "object", "additionalProperties": value}
        elif field.is_repeated:
            items = self.single(field, rules.repeated.items, answers=answers)
            schema = {"type": "array", "items": items, **limits(rules.repeated)}
        else:
            schema = self.single(field, rules, answers=answers)
        words = [rule.message for rule in rules.cel if rule.message]
        if words:
            schema = {**schema, "description": f"It {'; it '.join(words)}."}
        return self.described(field.full_name, schema)

    def single(self, field: FieldDescriptor, rules: validate_pb2.FieldRules, *, answers: bool = False) -> Schema:
        """One value of the field."""
        kind = rules.WhichOneof("type")
        of_kind = limits(getattr(rules, kind)) if kind and kind not in ("repeated", "map", "enum") else {}
        if field.message_type is not None:
            return self.message(field.message_type, answers=answers)
        if field.enum_type is not None:
            return self.enum(field.enum_type)
        if field.cpp_type in INTEGERS:
            return {"type": "integer", "format": INTEGERS[field.cpp_type], **of_kind}
        if field.cpp_type in LONGS:  # written as strings, since JavaScript's numbers end at 2^53; read as either
            return {"type": ["string", "integer"], "format": LONGS[field.cpp_type], **of_kind}
        if field.cpp_type in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
            return {"type": "number", **of_kind}
        if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
            return {"type": "boolean"}
        if field.type == FieldDescriptor.TYPE_BYTES:
            return {"type": "string", "contentEncoding": "base64"}
        if rules.string.uuid:
            of_kind["format"] = "uuid"
        return {"type": "string", **of_kind}

    def enum(self, enum: EnumDescriptor) -> Schema:
        name = enum.full_name
        if name not in self.components:
            said = [
                f"- {value.name}: {self._comments[key]}"
                for value in enum.values
                if (key := f"{name}.{value.name}") in self._comments
            ]
            schema: Schema = {"type": "string", "enum": [value.name for value in enum.values]}
            self.components[name] = self.described(name, {**schema, "description": "\n".join(said)} if said else schema)
        return {"$ref": f"#/components/schemas/{name}"}


def rules_of(field: FieldDescriptor) -> validate_pb2.FieldRules:
    rules: validate_pb2.FieldRules = field.GetOptions().Extensions[validate_pb2.field]
    return rules


def has_rules(message: Descriptor, seen: frozenset[str] = frozenset()) -> bool:
    """Whether a field of the message, or of one that it holds, has a rule."""
    if message.full_name in seen or message.full_name in WELL_KNOWN:
        return False
    seen |= {message.full_name}
    return any(
        rules_of(field).ByteSize() > 0 or (field.message_type is not None and has_rules(field.message_type, seen))
        for field in message.fields
    )


def limits(rules: Any) -> Schema:
    """What of a field's rules JSON Schema can say."""
    return {LIMITS[field.name]: value for field, value in rules.ListFields() if field.name in LIMITS}
