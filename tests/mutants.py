"""Running code with one of its checks taken out, to see whether the tests would notice."""

from __future__ import annotations

import ast
import gc
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import CodeType, FunctionType


@dataclass(frozen=True)
class Mutant:
    """One statement of a module that is not carried out; `text` is its first line."""

    module: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.module.removeprefix('keyd.')}: {self.text}"


class _Statements(ast.NodeVisitor):
    """Statements that do nothing but call a check, or ask it for an objection."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self.found: list[ast.stmt] = []

    def generic_visit(self, node: ast.AST) -> None:
        if isinstance(node, ast.Expr | ast.Assign) and isinstance(node.value, ast.Call):
            function = node.value.func
            name = function.attr if isinstance(function, ast.Attribute) else None
            name = function.id if isinstance(function, ast.Name) else name
            if name in self._names:
                self.found.append(node)
        super().generic_visit(node)


class _Skip(ast.NodeTransformer):
    """Puts the statement at a line where it is never reached, its names still being used."""

    def __init__(self, line: int) -> None:
        self._line = line

    def visit_Expr(self, node: ast.Expr) -> ast.stmt:
        return self._skipped(node, [])

    def visit_Assign(self, node: ast.Assign) -> ast.stmt:
        nothing = ast.Assign(targets=node.targets, value=ast.Constant(None))
        return self._skipped(node, [nothing])

    def _skipped(self, node: ast.stmt, instead: list[ast.stmt]) -> ast.stmt:
        if node.lineno != self._line:
            return node
        return ast.If(test=ast.Constant(0), body=[node], orelse=instead)


def mutants(module: str, checks: Collection[str]) -> list[Mutant]:
    """One for each statement of the module that calls one of these functions or methods."""
    source = _source(module)
    visitor = _Statements(checks)
    visitor.visit(ast.parse(source))
    lines = source.splitlines()
    return [Mutant(module, one.lineno, lines[one.lineno - 1].strip()) for one in visitor.found]


@contextmanager
def mutated(mutant: Mutant) -> Iterator[None]:
    """Every function of the module that exists now, closures too, runs without the statement."""
    tree = _Skip(mutant.line).visit(ast.parse(_source(mutant.module)))
    changed = compile(ast.fix_missing_locations(tree), mutant.module, "exec", dont_inherit=True)
    changed_codes = {code.co_qualname: code for code in _codes(changed)}
    changed_here = [
        function
        for function in gc.get_objects()
        if isinstance(function, FunctionType)
        and function.__module__ == mutant.module
        and _holds(function.__code__, mutant.line)
    ]
    assert changed_here, f"{mutant}: nobody runs it"
    kept = [(function, function.__code__) for function in changed_here]
    try:
        for function in changed_here:
            function.__code__ = changed_codes[function.__code__.co_qualname]
        yield
    finally:
        for function, code in kept:
            function.__code__ = code


def _source(module: str) -> str:
    path = import_module(module).__file__
    assert path is not None
    return Path(path).read_text()


def _codes(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _codes(constant)


def _holds(code: CodeType, line: int) -> bool:
    """Whether the line is in this very function or in one that it makes."""
    return any(line == number for _, _, number in code.co_lines()) or any(
        _holds(inner, line) for inner in _codes(code)
    )
