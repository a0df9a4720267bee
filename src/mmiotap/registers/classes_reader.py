"""Registers out of a Python file with classes of :mod:`mmiotap.registers.classes`. The file is run, as any program."""

import ast
import sys
import traceback
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any

from mmiotap.registers import classes
from mmiotap.registers.model import Description, Field, Register, wrong
from mmiotap.registers.tree import describe

_NAME = "mmiotap_registers_file"


def read(path: Path, part: str | None) -> Description:
    """The RegMap ``part``, which may be left out if there is only one. Raises MmiotapError with place and cause."""
    module, lines = _run(path)
    maps = {
        name: one
        for name, one in vars(module).items()
        if isinstance(one, type) and issubclass(one, classes.RegMap) and one.__module__ == _NAME
    }
    if part is not None and part not in maps:
        raise wrong(path, None, f"it has no RegMap {part!r}; there are {', '.join(maps) or 'none'}")
    if part is None and len(maps) != 1:
        which = (
            f"it has several RegMaps; choose one, {path.name}:CLASS: {', '.join(maps)}" if maps else "it has no RegMap"
        )
        raise wrong(path, None, which)
    chosen = maps[part or next(iter(maps))]
    reader = _Reader(path, lines)
    registers = [one for name, value in _members(chosen) for one in reader.registers(chosen, name, value)]
    return describe(f"{path.name}:{part}" if part else path.name, str(path), registers)


def _run(path: Path) -> tuple[ModuleType, dict[tuple[str, str], int]]:
    """The module, and the lines on which its classes assign their members."""
    try:
        source = path.read_bytes()
        tree = ast.parse(source, str(path))
        module = ModuleType(_NAME)
        module.__file__ = str(path)
        sys.modules[_NAME] = module
        exec(compile(source, str(path), "exec"), vars(module))
    except SyntaxError as error:
        raise wrong(path, error.lineno, f"no Python: {error.msg}") from error
    except ValueError as error:
        if not isinstance(error, UnicodeError) and error.__traceback__ and error.__traceback__.tb_next:
            raise _failed(path, error) from error
        raise wrong(path, None, f"no Python: {error}") from error
    except (Exception, SystemExit) as error:
        raise _failed(path, error) from error
    finally:
        sys.modules.pop(_NAME, None)
    lines = {
        (one.name, target.id): statement.lineno
        for one in ast.walk(tree)
        if isinstance(one, ast.ClassDef)
        for statement in one.body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }
    return module, lines


def _failed(path: Path, error: BaseException) -> Exception:
    """The line of the file that was run last."""
    mine = [one.lineno for one in traceback.extract_tb(error.__traceback__) if one.filename == str(path)]
    return wrong(path, mine[-1] if mine else None, f"{type(error).__name__}: {error}")


def _members(one: type) -> list[tuple[str, Any]]:
    """Of a class and those that it extends, its own last; without what Python puts there."""
    found: dict[str, Any] = {}
    for base in reversed(one.__mro__):
        found |= {name: value for name, value in vars(base).items() if not name.startswith("_")}
    return list(found.items())


class _Reader:
    def __init__(self, path: Path, lines: dict[tuple[str, str], int]) -> None:
        self._path = path
        self._lines = lines
        self._read: dict[type, tuple[Field, ...]] = {}

    def registers(self, owner: type, name: str, value: Any) -> list[Register]:
        """``offset, Register`` or ``range, Register``."""
        line = self._line(owner, name)
        match value:
            case (int() as offset, type() as kind) if issubclass(kind, classes.Register):
                offsets = range(offset, offset + 1)
            case (range() as offsets, type() as kind) if issubclass(kind, classes.Register):
                pass
            case _:
                raise wrong(self._path, line, f"{name} is no offset (or range of them) and a Register")
        width = kind.__WIDTH__ // 8
        if not width:
            raise wrong(self._path, line, f"{kind.__name__} has no width; it has to extend Register8, 16, 32 or 64")
        if not offsets or offsets[0] < 0 or offsets.step < 0:
            raise wrong(self._path, line, f"{name} has no offsets, or they go down or begin below 0")
        one = Register(name, offsets[0], width, (), self._fields(kind), "RW", str(self._path), line)
        if isinstance(value[0], int):
            return [one]
        if offsets.step == width:
            return [Register(name, offsets[0], width, (len(offsets),), one.fields, "RW", one.path, line)]
        return [
            Register(f"{name}[{index}]", offset, width, (), one.fields, "RW", one.path, line)
            for index, offset in enumerate(offsets)
        ]

    def _fields(self, kind: type[classes.Register]) -> tuple[Field, ...]:
        if kind not in self._read:
            self._read[kind] = tuple(self._field(kind, name, value) for name, value in _members(kind))
        return self._read[kind]

    def _field(self, owner: type, name: str, value: Any) -> Field:
        """A bit; or the highest and the lowest bit, and what the value is made."""
        line = self._line(owner, name)
        values: dict[int, str] = {}
        match value:
            case bool():
                raise wrong(self._path, line, f"{owner.__name__}.{name} = {value} is no bit")
            case int() as low:
                high = low
            case (int() as high, int() as low):
                pass
            case (int() as high, int() as low, kind) if callable(kind):
                if isinstance(kind, type) and issubclass(kind, Enum):
                    values = {one.value: one.name for one in kind if isinstance(one.value, int)}
            case _:
                raise wrong(self._path, line, f"{owner.__name__}.{name} = {value!r} is no bit, and no pair of bits")
        if not 0 <= low <= high:
            raise wrong(self._path, line, f"{owner.__name__}.{name}: the highest bit comes first, then the lowest")
        return Field(name, low, high - low + 1, values=values, line=line)

    def _line(self, owner: type, name: str) -> int:
        """Where a member is assigned, in its class or one that that extends."""
        return next(
            (self._lines[one.__name__, name] for one in owner.__mro__ if (one.__name__, name) in self._lines), 0
        )
