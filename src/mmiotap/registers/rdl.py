"""SystemRDL 2.0, by systemrdl-compiler. Embedded Perl is a program of its author, and runs only when asked for."""

from pathlib import Path

from systemrdl import RDLCompileError, RDLCompiler
from systemrdl.preprocessor.perl_preprocessor import PerlPreprocessor, PPPUnalteredSegment

from mmiotap.registers.model import Description, wrong
from mmiotap.registers.tree import Messages, flatten


def read(path: Path, part: str | None, *, perl: bool = False) -> Description:
    """The address map that is defined last, or the one named ``part``. Raises MmiotapError with place and cause."""
    messages = Messages(str(path))
    compiler = RDLCompiler(message_printer=messages)
    try:
        if not perl:
            _refuse_perl(compiler, str(path))
        compiler.compile_file(str(path))
        top = compiler.elaborate(part).top
    except RDLCompileError as error:
        raise messages.error(error) from error
    except UnicodeDecodeError as error:
        raise wrong(path, None, f"this is no SystemRDL: {error}") from error
    return flatten(f"{path.name}:{part}" if part else path.name, str(path), top)


def _refuse_perl(compiler: RDLCompiler, path: str) -> None:
    """The library's own search for Perl, includes and all, without running it."""
    preprocessor = PerlPreprocessor(compiler.env, path, [])
    segments, has_perl = preprocessor.get_perl_segments(preprocessor.tokenize())
    if has_perl:
        first = next(one for one in segments if not isinstance(one, PPPUnalteredSegment))
        line = first.file_pp.text.count("\n", 0, first.start) + 1
        raise wrong(first.file_pp.path, line, "it has a Perl program in it, which runs only with --perl")
