"""How a source file uses TensorRT's classes, found by following types through its syntax tree.

Types start at parameters, results and attributes annotated with a name of ``deploy/engine/api.py``, at
``flavour.module`` and at an import of TensorRT; they go on through assignments, comprehensions, constructors and what
methods return. What cannot be followed is not checked, so what should have been is told, too.
"""

import ast
from dataclasses import dataclass

from tensorrt_api.tables import MODULE

PACKAGES = ("tensorrt", "tensorrt_rtx")


@dataclass(frozen=True)
class Call:
    """The arguments of a call. ``positional`` is None where ``*`` or ``**`` hides how many there are."""

    positional: int | None
    keywords: tuple = ()


@dataclass(frozen=True)
class Use:
    """``owner.member`` at ``line``; the owner is a class, an enumeration or ``module``.

    ``how`` is ``read``, ``written``, ``passed`` (to a call, as its argument), ``asked`` (by hasattr or getattr) or a
    :class:`Call`; a method that a derived class overrides counts as called with what the override takes.
    """

    owner: str
    member: str
    how: object
    line: int

    def fits(self, api):
        """Whether ``api`` has the member and lets it be used so."""
        if self.how == "asked":
            return True
        kind = api.kind(self.owner, self.member)
        if isinstance(self.how, Call):
            return self._can_be_called(api)
        if not api.has(self.owner, self.member):
            return False
        if self.how == "written":
            return kind == "rw"
        return self.how == "passed" or not api.is_method(self.owner, self.member)

    def _can_be_called(self, api):
        owner, member = self.owner, self.member
        if owner == MODULE and member in api.functions:
            return True  # the tables hold no signatures of functions
        if owner == MODULE:
            owner, member = member, "__init__"
        return self.how.positional is not None and api.takes(owner, member, self.how.positional, self.how.keywords)


@dataclass(frozen=True)
class Kind:
    """``instance`` of a class, a ``class`` (or enumeration) itself, a bound ``method``, a ``list`` of instances."""

    what: str
    name: str
    method: str = ""


class Follower(ast.NodeVisitor):
    def __init__(self, apis, aliases):
        self.apis, self.aliases = apis, aliases
        self.uses, self.scope, self.attributes, self.functions = set(), {}, {}, {}
        self.followed, self.calls, self.passed = set(), {}, set()

    def visit_Import(self, node):
        for name in node.names:
            if name.name in PACKAGES:
                self.scope[name.asname or name.name] = Kind("instance", MODULE)

    def visit_FunctionDef(self, node):
        if (returned := self.annotated(node.returns)) is not None:
            self.functions[node.name] = returned
        outer, self.scope = self.scope, dict(self.scope)
        for argument in (*node.args.args, *node.args.kwonlyargs):
            self.scope[argument.arg] = self.annotated(argument.annotation)
        self.generic_visit(node)
        self.scope = outer

    def visit_ClassDef(self, node):
        for base in node.bases:
            kind = self.kind(base)
            if kind is not None and kind.what == "class":
                methods = [item for item in node.body if isinstance(item, ast.FunctionDef)]
                self.uses |= {Use(kind.name, m.name, taken(m), m.lineno) for m in methods if m.name[0] != "_"}
        self.generic_visit(node)

    def visit_Assign(self, node):
        for target in node.targets:
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                for each, value in zip(target.elts, node.value.elts, strict=True):
                    self.bind(each, self.kind(value))
            else:
                self.bind(target, self.kind(node.value))
        self.generic_visit(node)

    def visit_AnnAssign(self, node):
        self.bind(node.target, self.annotated(node.annotation) or (node.value and self.kind(node.value)))
        self.generic_visit(node)

    def visit_NamedExpr(self, node):
        self.bind(node.target, self.kind(node.value))
        self.generic_visit(node)

    def visit_For(self, node):
        self.bind(node.target, self.element(node.iter))
        self.generic_visit(node)

    def visit_ListComp(self, node):
        for part in node.generators:
            self.bind(part.target, self.element(part.iter))
        self.generic_visit(node)

    visit_SetComp = visit_GeneratorExp = visit_DictComp = visit_ListComp

    def visit_Call(self, node):
        self.calls[node.func] = given(node)
        self.passed |= {*node.args, *(keyword.value for keyword in node.keywords)}
        if isinstance(node.func, ast.Name) and node.func.id in ("hasattr", "getattr") and len(node.args) > 1:
            owner, name = self.kind(node.args[0]), node.args[1]
            if owner is not None and owner.what in ("instance", "class") and isinstance(name, ast.Constant):
                self.uses.add(Use(owner.name, name.value, "asked", node.lineno))
        self.generic_visit(node)

    def visit_Attribute(self, node):
        owner = self.kind(node.value)
        if owner is not None and owner.what in ("instance", "class"):
            self.followed.add(node)
            if not node.attr.startswith("__"):
                self.uses.add(Use(owner.name, node.attr, self.how(node), node.lineno))
        self.generic_visit(node)

    def how(self, node):
        if node in self.calls:
            return self.calls[node]
        return "passed" if node in self.passed else "written" if isinstance(node.ctx, ast.Store) else "read"

    def bind(self, target, kind):
        if isinstance(target, ast.Name):
            self.scope[target.id] = kind
        elif isinstance(target, ast.Attribute) and kind is not None:
            self.attributes[target.attr] = kind

    def annotated(self, annotation):
        if isinstance(annotation, ast.BinOp):  # IRuntimeCache | None
            return self.annotated(annotation.left)
        if isinstance(annotation, ast.Name) and annotation.id in self.aliases:
            return Kind("instance", MODULE if annotation.id == "TensorRt" else annotation.id)
        return None

    def element(self, node):
        kind = self.kind(node)
        return Kind("instance", kind.name) if kind is not None and kind.what == "list" else None

    def kind(self, node):
        if isinstance(node, ast.Name):
            return self.scope.get(node.id)
        if isinstance(node, ast.ListComp):
            self.visit_ListComp(node)
            kind = self.kind(node.elt)
            return Kind("list", kind.name) if kind is not None else None
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id in self.functions:
                return self.functions[node.func.id]
            return self.result(self.kind(node.func))
        return self.attribute(node) if isinstance(node, ast.Attribute) else None

    def result(self, called):
        if called is None or called.what not in ("class", "method"):
            return None
        if called.what == "class":
            return Kind("instance", called.name)
        returned = {api.returns(called.name, called.method) for api in self.apis} - {None}
        return Kind("instance", returned.pop()) if len(returned) == 1 else None

    def attribute(self, node):
        if node.attr == "module" and "flavour" in ast.unparse(node.value):
            return Kind("instance", MODULE)
        owner = self.kind(node.value)
        if owner is None or owner.what != "instance":
            return self.attributes.get(node.attr)
        return Kind("class", node.attr) if owner.name == MODULE else Kind("method", owner.name, node.attr)


def taken(function):
    """What an overriding method is called with, if it is to be called at all."""
    return Call(len(function.args.posonlyargs) + len(function.args.args) - 1)


def given(call):
    """The arguments that a call spells out."""
    hidden = any(isinstance(argument, ast.Starred) for argument in call.args)
    names = tuple(keyword.arg for keyword in call.keywords)
    return Call(None if hidden or None in names else len(call.args), names)


@dataclass(frozen=True)
class Followed:
    """One file. ``missed`` are (name, line) of attributes named like a member of TensorRT's that were not followed."""

    uses: set
    missed: set


def follow(sources, apis, aliases):
    """File name → :class:`Followed`, of file name → source. What an attribute is in one file it is in the others."""
    shared = {}
    for source in sources.values():
        shared |= followed(source, apis, aliases, {}).attributes
    found = {name: followed(source, apis, aliases, shared) for name, source in sources.items()}
    return {name: Followed(follower.uses, missed(follower, apis)) for name, follower in found.items()}


def followed(source, apis, aliases, attributes):
    follower = Follower(apis, aliases)
    follower.attributes |= attributes
    follower.tree = ast.parse(source)
    for _ in range(2):  # a name may be used above the line that gives its type
        follower.uses.clear()
        follower.visit(follower.tree)
    return follower


def missed(follower, apis):
    """Only members with an underscore in their names count: others are everybody's words."""
    names = {
        member for api in apis for members in api.classes.values() for member in members if "_" in member.strip("_")
    }
    attributes = {node for node in ast.walk(follower.tree) if isinstance(node, ast.Attribute) and node.attr in names}
    return {(node.attr, node.lineno) for node in attributes - follower.followed}
