"""The real Python API of the supported versions.

Each table was read off that version's own bindings by ``compact.py``. A class maps each member to ``ro`` or ``rw`` (a
property), ``=`` (another attribute), ``enum:A,B`` (a nested enumeration) or a method's signatures: overloads are parted
by ``|``, a parameter that may be left out ends in ``=``, one called ``arg0`` has no name to give it by, and the class
that is returned, if it is one of the table's, follows: ``(name)DataType|(name,profile_index=)DataType``.
"""

import functools
import json
import re
from dataclasses import dataclass
from inspect import Parameter, Signature
from pathlib import Path

MODULE = "module"


@dataclass(frozen=True, eq=False)
class Api:
    flavour: str
    version: str
    classes: dict
    enums: dict
    functions: list

    def __str__(self):
        return f"{self.flavour} {self.version}"

    def has(self, owner, member):
        """Whether ``owner`` (a class, an enumeration or ``module``) has ``member``."""
        if owner == MODULE:
            return member in self.classes or member in self.enums or member in self.functions
        return member in self.enums.get(owner, ()) or member in self.classes.get(owner, {})

    def kind(self, owner, member):
        """``ro``, ``rw``, ``=``, ``enum:…``, a method's signatures; None where there is no such member of a class."""
        return self.classes.get(owner, {}).get(member)

    def is_method(self, owner, member):
        return (self.kind(owner, member) or "").startswith("(")

    def returns(self, owner, method):
        """The class that a method returns, or None."""
        return (self.kind(owner, method) or "").rpartition(")")[2] or None if self.is_method(owner, method) else None

    @functools.cache  # noqa: B019 - the tables live as long as the process
    def takes(self, owner, method, positional, keywords):
        """Whether one overload of a method can be called with so many positional arguments and these keywords."""
        return any(accepts(each, positional, keywords) for each in signatures(self.kind(owner, method) or ""))


def signatures(kind):
    """The overloads of a method as :class:`inspect.Signature`; none for any other kind of member."""
    return [Signature(list(parameters(inside))) for inside in re.findall(r"\(([^)]*)\)", kind)]


def parameters(inside):
    for name in filter(None, inside.split(",")):
        unnamed = re.fullmatch(r"arg\d+=?", name)  # what pybind11 calls a parameter that was given no name
        how = Parameter.POSITIONAL_ONLY if unnamed else Parameter.POSITIONAL_OR_KEYWORD
        yield Parameter(name.rstrip("="), how, default=None if name.endswith("=") else Parameter.empty)


def accepts(signature, positional, keywords):
    try:
        signature.bind(*[None] * positional, **dict.fromkeys(keywords))
    except TypeError:
        return False
    return True


def read(path):
    fields = json.loads(path.read_text())
    flavour = path.name.split("-")[0]
    return Api(flavour, fields["version"], fields["classes"], fields["enums"], fields["functions"])


APIS = [read(path) for path in sorted(Path(__file__).parent.glob("*.json"))]
