"""What a later contract may not change, so that an agent of an earlier release goes on working.

A pure rule over two FileDescriptorSets. Whatever is added is fine: fields, methods, messages and
values. What was there keeps its number, type, label, name and streaming; a field that is no longer
sent stays in the contract.
"""

from google.protobuf import descriptor_pb2

_LABELS = {1: "optional", 2: "required", 3: "repeated"}


def parse(data):
    """Return a FileDescriptorSet."""
    found = descriptor_pb2.FileDescriptorSet()
    found.ParseFromString(data)
    return found


def breaks(old, new):
    """Return one line for every change of `old` in `new` that an older peer would feel."""
    return [
        *_compare(_methods(old), _methods(new), "method"),
        *_compare(_fields(old), _fields(new), "field"),
        *_compare(_values(old), _values(new), "value"),
    ]


def _compare(old, new, kind):
    for name, was in old.items():
        now = new.get(name)
        if now is None:
            yield f"{kind} {name} is gone"
        elif now != was:
            yield f"{kind} {name} was `{was}` and is `{now}`"


def _methods(files):
    return {
        f"/{file.package}.{service.name}/{method.name}": " ".join(
            [
                "stream " * method.client_streaming + method.input_type,
                "->",
                "stream " * method.server_streaming + method.output_type,
            ]
        )
        for file in _own(files)
        for service in file.service
        for method in service.method
    }


def _fields(files):
    return {
        f"{name}#{field.number}": _shape(field)
        for file in _own(files)
        for name, message in _messages(f".{file.package}", file.message_type)
        for field in message.field
    }


def _shape(field):
    kind = descriptor_pb2.FieldDescriptorProto.Type.Name(field.type)[5:].lower()
    group = f" of oneof {field.oneof_index}" if field.HasField("oneof_index") else ""
    named = " ".join(filter(None, (kind, field.type_name, field.name)))
    return f"{_LABELS[field.label]} {named}{group}"


def _values(files):
    return {
        f".{file.package}.{enum.name}#{value.number}": value.name
        for file in _own(files)
        for enum in file.enum_type
        for value in enum.value
    }


def _messages(scope, messages):
    for message in messages:
        name = f"{scope}.{message.name}"
        yield name, message
        yield from _messages(name, message.nested_type)


def _own(files):
    return [file for file in files.file if not file.package.startswith("google.")]
