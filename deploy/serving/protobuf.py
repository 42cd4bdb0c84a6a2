"""The messages and services of ``*.proto`` beside this file, read at run time: nobody needs protoc.

They live in a descriptor pool of their own. tritonclient and other packages register the same names in protobuf's
default pool, where a second definition is an error in any process that has both.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from importlib import resources
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import DescriptorProto, EnumDescriptorProto, FieldDescriptorProto

_FILES = ("inference.proto", "health.proto")
_SCALARS = ("double", "float", "int32", "int64", "uint32", "uint64", "bool", "string", "bytes")
_TOKEN = re.compile(r'"[^"]*"|[\w.]+|[^\s\w]')


class _Parser:
    """The part of proto3's language that the files use: no imports, options, reserved numbers or maps of other keys."""

    def __init__(self, name: str, text: str) -> None:
        self._tokens: Iterator[str] = iter(_TOKEN.findall(re.sub(r"//.*", "", text)))
        self.file = descriptor_pb2.FileDescriptorProto(name=name, syntax="proto3")
        for keyword in self._tokens:
            getattr(self, f"_{keyword}")()

    def _take(self, *expected: str) -> None:
        for want in expected:
            got = next(self._tokens)
            if got != want:
                raise ValueError(f"{self.file.name}: got {got}, expected {want}")

    def _inside(self) -> Any:
        """The first token of each statement up to the closing brace."""
        self._take("{")
        return iter(self._tokens.__next__, "}")

    def _syntax(self) -> None:
        self._take("=", '"proto3"', ";")

    def _package(self) -> None:
        self.file.package = next(self._tokens)
        self._take(";")

    def _message(self, parent: DescriptorProto | None = None) -> None:
        made = self.file.message_type.add() if parent is None else parent.nested_type.add()
        made.name = next(self._tokens)
        for word in self._inside():
            if word == "message":
                self._message(made)
            elif word == "enum":
                self._enum(made)
            elif word == "oneof":
                made.oneof_decl.add(name=next(self._tokens))
                for kind in self._inside():
                    self._field(made, kind).oneof_index = len(made.oneof_decl) - 1
            else:
                self._field(made, word)

    def _field(self, message: DescriptorProto, word: str) -> FieldDescriptorProto:
        field = message.field.add(label=FieldDescriptorProto.LABEL_OPTIONAL)
        if word in ("repeated", "map"):
            field.label = FieldDescriptorProto.LABEL_REPEATED
            kind = next(self._tokens) if word == "repeated" else self._map_value()
        else:
            kind = word
        field.name = next(self._tokens)
        _set_type(field, _entry(message, field.name, kind) if word == "map" else kind)
        field.number = self._number()
        return field

    def _map_value(self) -> str:
        self._take("<", "string", ",")
        kind = next(self._tokens)
        self._take(">")
        return kind

    def _number(self) -> int:
        self._take("=")
        number = int(next(self._tokens))
        self._take(";")
        return number

    def _enum(self, parent: DescriptorProto | None = None) -> None:
        made: EnumDescriptorProto = (self.file if parent is None else parent).enum_type.add(name=next(self._tokens))
        for word in self._inside():
            made.value.add(name=word, number=self._number())

    def _service(self) -> None:
        made = self.file.service.add(name=next(self._tokens))
        for _ in self._inside():  # "rpc"
            method = made.method.add(name=next(self._tokens))
            method.input_type, method.client_streaming = self._stream()
            self._take("returns")
            method.output_type, method.server_streaming = self._stream()
            self._take(";")

    def _stream(self) -> tuple[str, bool]:
        self._take("(")
        kind = next(self._tokens)
        stream = kind == "stream"
        if stream:
            kind = next(self._tokens)
        self._take(")")
        return kind, stream


def _set_type(field: FieldDescriptorProto, kind: str) -> None:
    if kind in _SCALARS:
        field.type = getattr(FieldDescriptorProto, f"TYPE_{kind.upper()}")
    else:
        field.type_name = kind  # the pool finds it from the inside out, and whether it is a message or an enum


def _entry(message: DescriptorProto, field: str, kind: str) -> str:
    """The message that a map is on the wire, repeated: a key and a value."""
    entry = message.nested_type.add(name=f"{field.title().replace('_', '')}Entry")
    entry.options.map_entry = True
    for number, (name, one) in enumerate((("key", "string"), ("value", kind)), 1):
        part = entry.field.add(name=name, number=number, label=FieldDescriptorProto.LABEL_OPTIONAL)
        _set_type(part, one)
    return str(entry.name)


@cache
def pool() -> Any:
    """The descriptor pool that holds the files."""
    made = descriptor_pool.DescriptorPool()
    for name in _FILES:
        text = resources.files("deploy.serving").joinpath(name).read_text("utf-8")
        made.AddSerializedFile(_Parser(name, text).file.SerializeToString())
    return made


@cache
def message(name: str) -> Any:
    """The class of a message, by its full name."""
    return message_factory.GetMessageClass(pool().FindMessageTypeByName(name))


def services() -> list[Any]:
    """The descriptors of all services."""
    return [service for name in _FILES for service in pool().FindFileByName(name).services_by_name.values()]
