"""What may be recorded, what not, and the clear line that says why."""

import os
import stat
import struct
import sys
from pathlib import Path

import pytest

from conftest import Compile
from mmiotap.sources import elf, launch
from mmiotap.trace import layout
from mmiotap.trace.errors import MmiotapError

#: Any 64-bit shared object of this machine stands for the agent: only its header is looked at.
AGENT = Path(sys.executable).resolve()

HELLO = "int main(void) { return 0; }\n"


def executable(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    path.chmod(0o755)
    return path


def test_program_in_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    executable(tmp_path / "tool", b"")
    monkeypatch.setenv("PATH", f"/nowhere:{tmp_path}")
    assert launch.find_program("tool") == f"{tmp_path}/tool"


def test_folders_and_plain_files_in_path_are_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "tool").mkdir()
    (tmp_path / "b" / "tool").write_text("")
    executable(tmp_path / "c" / "tool", b"")
    monkeypatch.setenv("PATH", ":".join(str(tmp_path / name) for name in ("a", "b", "c")))
    assert launch.find_program("tool") == f"{tmp_path}/c/tool"


def test_a_word_with_a_slash_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    executable(tmp_path / "tool", b"")
    monkeypatch.chdir(tmp_path)
    assert launch.find_program("./tool") == "./tool"


@pytest.mark.parametrize(
    ("name", "status", "text"),
    [
        ("no-such-program", 127, "no-such-program: no such program in PATH"),
        ("./none", 127, "./none: no such file"),
        ("./plain", 126, "./plain is not executable"),
        ("./folder", 126, "./folder is a folder"),
    ],
)
def test_not_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, status: int, text: str) -> None:
    (tmp_path / "plain").write_text("")
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(launch.NotStartedError) as raised:
        launch.find_program(name)
    assert raised.value.status == status
    assert text in str(raised.value)


def test_header_of_this_interpreter() -> None:
    header = elf.read(Path(sys.executable))
    assert header is not None
    assert (header.bits, header.dynamic) == (64, True)
    assert header.machine_name.lower().replace("-", "_") == os.uname().machine


@pytest.mark.parametrize("flags", ["", "-no-pie", "-fPIE -pie"])
def test_dynamic_programs_are_fine(compile_c: Compile, flags: str) -> None:
    launch.check_program(compile_c(HELLO, "program", *flags.split()), AGENT)


@pytest.mark.parametrize("flags", ["-static", "-static-pie"])
def test_static(compile_c: Compile, flags: str) -> None:
    program = compile_c(HELLO, "program", flags)
    with pytest.raises(MmiotapError, match=r"program is statically linked.*link it without -static"):
        launch.check_program(program, AGENT)


def test_32_bit(tmp_path: Path) -> None:
    header = b"\x7fELF\x01\x01\x01" + bytes(9) + struct.pack("<HHI", 2, 3, 1) + bytes(28)
    program = executable(tmp_path / "old", header)
    with pytest.raises(MmiotapError, match="old is a 32-bit program; mmiotap records 64-bit ones"):
        launch.check_program(program, AGENT)


@pytest.mark.parametrize(("order", "data", "machine", "name"), [("<", 1, 243, "RISC-V"), (">", 2, 22, "s390")])
def test_foreign_machine(tmp_path: Path, order: str, data: int, machine: int, name: str) -> None:
    start = b"\x7fELF\x02" + bytes([data, 1]) + bytes(9) + struct.pack(order + "HHI", 2, machine, 1) + bytes(40)
    with pytest.raises(MmiotapError, match=f"is a program for {name}"):
        launch.check_program(executable(tmp_path / "foreign", start), AGENT)


def test_script_of_a_static_interpreter(compile_c: Compile, tmp_path: Path) -> None:
    interpreter = compile_c(HELLO, "interpreter", "-static")
    script = executable(tmp_path / "script", f"#! {interpreter} -x\n".encode())
    with pytest.raises(MmiotapError, match=f"script: its interpreter {interpreter} is statically linked"):
        launch.check_program(script, AGENT)


def test_script_of_a_script(tmp_path: Path) -> None:
    inner = executable(tmp_path / "inner", f"#!{sys.executable}\n".encode())
    launch.check_program(executable(tmp_path / "outer", f"#!{inner}\n".encode()), AGENT)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "neither an ELF program nor a script"),
        (b"echo hello\n", "neither an ELF program nor a script"),
        (b"#!\n", "neither an ELF program nor a script"),
        (b"\x7fELF", "neither an ELF program nor a script"),
        (b"#!/no/such/interpreter\n", "its interpreter /no/such/interpreter does not exist"),
    ],
)
def test_neither_program_nor_script(tmp_path: Path, content: bytes, text: str) -> None:
    with pytest.raises(launch.NotStartedError, match=text) as raised:
        launch.check_program(executable(tmp_path / "thing", content), AGENT)
    assert raised.value.status == 126


def test_a_script_that_interprets_itself(tmp_path: Path) -> None:
    script = tmp_path / "ouroboros"
    executable(script, f"#!{script}\n".encode())
    with pytest.raises(launch.NotStartedError, match="too many interpreters"):
        launch.check_program(script, AGENT)


@pytest.mark.parametrize(("bit", "word"), [(stat.S_ISUID, "setuid"), (stat.S_ISGID, "setgid")])
def test_setuid_of_somebody_else(compile_c: Compile, bit: int, word: str) -> None:
    program = compile_c(HELLO)
    os.chown(program, 12345, 12345)
    program.chmod(0o755 | bit)
    with pytest.raises(MmiotapError, match=f"is {word}, so the loader ignores LD_PRELOAD"):
        launch.check_program(program, AGENT)


@pytest.mark.parametrize("bit", [stat.S_ISUID, stat.S_ISGID])
def test_setuid_of_ourselves_changes_nothing(compile_c: Compile, bit: int) -> None:
    program = compile_c(HELLO)
    os.chown(program, os.getuid(), os.getgid())
    program.chmod(0o755 | bit)
    launch.check_program(program, AGENT)


def test_rules_fill_the_arena_to_the_last_byte() -> None:
    fits = "/" + "x" * (layout.RULES_SIZE - 3)
    launch.check_rules([fits])
    with pytest.raises(MmiotapError, match=f"take {layout.RULES_SIZE + 1} bytes, more than the {layout.RULES_SIZE}"):
        launch.check_rules([fits + "x"])
    with pytest.raises(MmiotapError, match="an empty --map"):
        launch.check_rules(["/dev/mem", ""])


def test_the_agent_goes_before_what_is_preloaded_already(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = Path("/opt/_agent.so")
    arena = Path("/tmp/t/live/arena")
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    assert launch.environment(arena, agent)["LD_PRELOAD"] == "/opt/_agent.so"
    monkeypatch.setenv("LD_PRELOAD", "/a.so /b.so:/opt/_agent.so")
    env = launch.environment(arena, agent)
    assert env["LD_PRELOAD"] == "/opt/_agent.so:/a.so:/b.so"
    assert env["MMIOTAP_ARENA"] == "/tmp/t/live/arena"
