"""The real Python API of the supported versions, by name.

Each table was read off that version's own bindings: classes (member → ``ro`` or ``rw`` for a property, ``()`` and the
class returned for a method), enumerations and functions. Only what build, runtime and inspection can want is kept.
"""

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Api:
    flavour: str
    version: str
    classes: dict
    enums: dict
    functions: list

    def __str__(self):
        return f"{self.flavour} {self.version}"

    def has(self, owner, member, *, written=False):
        """Whether ``owner`` (a class, an enumeration or ``module``) has ``member`` and, if so asked, lets it be set."""
        if owner == "module":
            return member in self.classes or member in self.enums or member in self.functions
        if owner in self.enums:
            return member in self.enums[owner]
        kind = self.classes.get(owner, {}).get(member)
        return kind is not None and (not written or kind == "rw")

    def returns(self, owner, method):
        """The class that a method returns, or None."""
        return self.classes.get(owner, {}).get(method, "").removeprefix("()") or None


def read(path):
    fields = json.loads(path.read_text())
    flavour = path.name.split("-")[0]
    return Api(flavour, fields["version"], fields["classes"], fields["enums"], fields["functions"])


APIS = [read(path) for path in sorted(Path(__file__).parent.glob("*.json"))]
