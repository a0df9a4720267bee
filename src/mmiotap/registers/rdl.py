"""SystemRDL 2.0, by systemrdl-compiler. Embedded Perl is a program of its author, and runs only when asked for."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from systemrdl import AddrmapNode, RDLCompileError, RDLCompiler
from systemrdl.parser import sa_systemrdl
from systemrdl.preprocessor.perl_preprocessor import PerlPreprocessor, PPPUnalteredSegment

from mmiotap.registers.model import Description, wrong
from mmiotap.registers.tree import Messages, flatten
from mmiotap.trace.errors import MmiotapError


def read(path: Path, part: str | None, *, perl: bool = False) -> Description:
    """The address map that is defined last, or the one named ``part``. Raises MmiotapError with place and cause."""
    try:
        try:
            top = _elaborated(path, part, perl=perl)
        except TypeError:
            # The compiled parser stumbles over what some syntax errors leave; the one in Python says where they are.
            with _python_parser():
                top = _elaborated(path, part, perl=perl)
    except (MmiotapError, RecursionError):
        raise
    except UnicodeDecodeError as error:
        raise wrong(path, None, f"this is no SystemRDL: {error}") from error
    except Exception as error:
        raise wrong(path, None, f"systemrdl-compiler cannot read it: {type(error).__name__}: {error}") from error
    return flatten(f"{path.name}:{part}" if part else path.name, str(path), top)


def _elaborated(path: Path, part: str | None, *, perl: bool) -> AddrmapNode:
    messages = Messages(str(path))
    compiler = RDLCompiler(message_printer=messages)
    try:
        if not perl:
            _refuse_perl(compiler, str(path))
        compiler.compile_file(str(path))
        return compiler.elaborate(part).top
    except RDLCompileError as error:
        raise messages.error(error) from error


def _refuse_perl(compiler: RDLCompiler, path: str) -> None:
    """The library's own search for Perl, includes and all, without running it."""
    preprocessor = PerlPreprocessor(compiler.env, path, [])
    segments, has_perl = preprocessor.get_perl_segments(preprocessor.tokenize())
    if has_perl:
        first = next(one for one in segments if not isinstance(one, PPPUnalteredSegment))
        line = first.file_pp.text.count("\n", 0, first.start) + 1
        raise wrong(first.file_pp.path, line, "it has a Perl program in it, which runs only with --perl")


@contextlib.contextmanager
def _python_parser() -> Iterator[None]:
    compiled = sa_systemrdl.USE_CPP_IMPLEMENTATION
    sa_systemrdl.USE_CPP_IMPLEMENTATION = False
    try:
        yield
    finally:
        sa_systemrdl.USE_CPP_IMPLEMENTATION = compiled
