"""Names of instruction addresses, from binaries that gcc makes here. nm(1) is the judge."""

import subprocess
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from conftest import TIME_LIMIT, Compile
from mmiotap.analysis.symbols import Symbols, build_id
from mmiotap.cli import main
from mmiotap.trace.model import Module, Process
from synthetic import row, write_trace

SOURCE = """
__attribute__((noinline)) void ring(volatile int *p) { p[3] = 7; }
__attribute__((noinline)) int poll_status(volatile int *p) { while (!*p) { } return *p; }
int main(void) { int x = 1; ring((int[4]){0}); return poll_status(&x); }
"""

BIAS = 0x555500000000


def nm(path: Path, *flags: str) -> dict[str, int]:
    """Names and addresses of the text symbols."""
    listing = subprocess.run(
        ["nm", *flags, path], capture_output=True, text=True, check=True, timeout=TIME_LIMIT
    ).stdout
    words = [line.split() for line in listing.splitlines()]
    return {line[2]: int(line[0], 16) for line in words if len(line) == 3 and line[1] in "tT"}


def module(path: Path, pid: int = 100, *, bias: int = BIAS) -> Module:
    with path.open("rb") as file:
        identity = build_id(ELFFile(file))
    return Module(pid, str(path), bias, bias + 0x10000, bias, identity)


@pytest.fixture
def program(compile_c: Compile) -> Path:
    return compile_c(SOURCE, "driver", "-Wl,--build-id")


def test_functions_of_the_symbol_table(program: Path) -> None:
    at = nm(program)
    symbols = Symbols([module(program)])
    addresses = [BIAS + at["poll_status"], BIAS + at["ring"] + 3, BIAS + at["ring"] + 3, 0, 0x1234]
    assert symbols.names([100] * 5, addresses) == [
        "poll_status+0x0 (driver)",
        "ring+0x3 (driver)",
        "ring+0x3 (driver)",
        "",
        "0x1234",
    ]
    assert symbols.notes == []


def test_beyond_the_end_of_a_function_is_not_in_it(program: Path) -> None:
    """The padding after a function, and the file's header, are named by module and address in the file."""
    at = nm(program)
    with program.open("rb") as file:
        table = ELFFile(file).get_section_by_name(".symtab")
        assert isinstance(table, SymbolTableSection)
        [ring] = table.get_symbol_by_name("ring") or []
        size = ring["st_size"]
    symbols = Symbols([module(program)])
    last, after = BIAS + at["ring"] + size - 1, BIAS + at["ring"] + size
    names = symbols.names([100] * 3, [last, after, BIAS + 4])
    assert names == [f"ring+{size - 1:#x} (driver)", f"driver+{at['ring'] + size:#x}", "driver+0x4"]


def test_a_stripped_shared_object_has_its_exported_names(compile_c: Compile) -> None:
    library = compile_c(SOURCE, "libdriver.so", "-shared", "-fPIC", "-s", "-Wl,--build-id")
    at = nm(library, "-D")
    assert Symbols([module(library)]).names([100], [BIAS + at["ring"]]) == ["ring+0x0 (libdriver.so)"]


def test_a_file_that_changed_is_not_trusted(program: Path, compile_c: Compile) -> None:
    recorded = module(program)
    ring = nm(program)["ring"]
    compile_c(SOURCE.replace("7", "8"), "driver", "-Wl,--build-id")
    symbols = Symbols([recorded])
    assert symbols.names([100, 100], [BIAS + ring, BIAS + ring + 1]) == [f"driver+{ring:#x}", f"driver+{ring + 1:#x}"]
    assert symbols.notes == [
        f"{program} has changed since it was recorded (another build id): its sites are shown without function names"
    ]


@pytest.mark.parametrize("content", [None, b"", b"#!/bin/sh\n", b"\x7fELF\x02\x01\x01" + bytes(20)])
def test_a_file_that_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "gone"
    if content is not None:
        path.write_bytes(content)
    symbols = Symbols([Module(100, str(path), BIAS, BIAS + 0x1000, BIAS, "ab")])
    assert symbols.names([100], [BIAS + 0x10]) == ["gone+0x10"]
    (note,) = symbols.notes
    assert note.startswith(f"{path} ")
    assert note.endswith(": its sites are shown without function names")


def test_a_truncated_program(program: Path) -> None:
    """Its section headers, at the end of the file, are gone."""
    recorded = module(program)
    content = program.read_bytes()
    program.write_bytes(content[: len(content) // 2])
    symbols = Symbols([recorded])
    assert symbols.names([100], [BIAS + 0x10]) == ["driver+0x10"]
    assert len(symbols.notes) == 1


def test_the_module_loaded_last_is_what_was_there(program: Path) -> None:
    earlier = Module(100, "/gone/old.so", BIAS, BIAS + 0x10000, BIAS, "")
    symbols = Symbols([earlier, module(program)])
    assert symbols.names([100], [BIAS + nm(program)["ring"]]) == ["ring+0x0 (driver)"]
    assert symbols.notes == []


def test_a_forked_child_has_the_modules_of_its_parent(program: Path) -> None:
    processes = [Process(100, 1, str(program)), Process(200, 100, str(program)), Process(300, 200, str(program))]
    symbols = Symbols([module(program)], processes)
    assert symbols.names([300, 1], [BIAS + 4, BIAS + 4]) == ["driver+0x4", f"{BIAS + 4:#x}"]


def test_processes_that_are_each_others_parents_do_not_hang() -> None:
    symbols = Symbols([], [Process(1, 2, "a"), Process(2, 1, "b")])
    assert symbols.names([1], [0x10]) == ["0x10"]


def test_code_of_the_kernel_has_no_file() -> None:
    symbols = Symbols([Module(100, "[vdso]", 0x7000, 0x9000, 0x7000, "")])
    assert symbols.names([100], [0x7010]) == ["[vdso]+0x10"]
    assert symbols.notes == []


def test_show_and_stats_name_sites(program: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ring = BIAS + nm(program)["ring"]
    path = write_trace(tmp_path / "t", [row(0, "write", 4, 12, 7, pc=ring)], modules=[module(program)])
    assert main(["show", str(path)]) == 0
    assert capsys.readouterr().out.endswith(" 0x0000c <- 0x00000007          ring+0x0 (driver)\n")
    assert main(["stats", str(path)]) == 0
    assert "ring+0x0 (driver)      4      0       1       0" in capsys.readouterr().out
    program.unlink()
    for command in ("show", "stats"):
        assert main([command, str(path)]) == 0
        captured = capsys.readouterr()
        assert f"driver+{ring - BIAS:#x}" in captured.out
        assert captured.err == f"mmiotap: {program} cannot be read (No such file or directory): its sites are " + (
            "shown without function names\n"
        )
