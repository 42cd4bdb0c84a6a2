"""Which members of TensorRT's classes a source file uses, found by following types through its syntax tree.

Types start at parameters, results and attributes annotated with a name of ``deploy/engine/api.py`` and at
``flavour.module``; they go on through assignments, comprehensions, constructors and what methods return. What cannot be
followed is not checked, so the test also asserts that every class is reached.
"""

import ast
from dataclasses import dataclass

MODULE = "module"


@dataclass(frozen=True)
class Use:
    """``owner.member`` at ``line``; the owner is a class, an enumeration or ``module``."""

    owner: str
    member: str
    written: bool
    line: int


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
                self.uses |= {Use(kind.name, m.name, False, m.lineno) for m in methods if not m.name.startswith("_")}
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

    def visit_For(self, node):
        self.bind(node.target, self.element(node.iter))
        self.generic_visit(node)

    def visit_ListComp(self, node):
        for part in node.generators:
            self.bind(part.target, self.element(part.iter))
        self.generic_visit(node)

    visit_SetComp = visit_GeneratorExp = visit_DictComp = visit_ListComp

    def visit_Attribute(self, node):
        owner = self.kind(node.value)
        if owner is not None and owner.what in ("instance", "class") and not node.attr.startswith("__"):
            self.uses.add(Use(owner.name, node.attr, isinstance(node.ctx, ast.Store), node.lineno))
        self.generic_visit(node)

    def bind(self, target, kind):
        if isinstance(target, ast.Name):
            self.scope[target.id] = kind
        elif isinstance(target, ast.Attribute) and kind is not None:
            self.attributes[target.attr] = kind

    def annotated(self, annotation):
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
        if node.attr == "module":
            return Kind("instance", MODULE)
        owner = self.kind(node.value)
        if owner is None or owner.what != "instance":
            return self.attributes.get(node.attr)
        return Kind("class", node.attr) if owner.name == MODULE else Kind("method", owner.name, node.attr)


def uses(source, apis, aliases):
    """Every use in one file. Two walks: a name may be used above the line that gives its type."""
    follower, tree = Follower(apis, aliases), ast.parse(source)
    follower.visit(tree)
    follower.visit(tree)
    return follower.uses
