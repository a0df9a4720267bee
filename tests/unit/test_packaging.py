"""What is installed is whole, and says the same everywhere."""

import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import mmiotap
from mmiotap.sources import launch
from mmiotap.version import VERSION

ROOT = Path(__file__).parents[2]


def test_one_version() -> None:
    agent = tomllib.loads((ROOT / "agent" / "Cargo.toml").read_text())["package"]["version"]
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert agent == metadata.version("mmiotap") == VERSION
    assert f"## {VERSION}" in changes


def test_the_oldest_rust_is_said_once_and_checked() -> None:
    manifest = tomllib.loads((ROOT / "agent" / "Cargo.toml").read_text())
    oldest = manifest["package"]["rust-version"].removeprefix("1.")
    assert f"OLDEST={oldest} " in (ROOT / "tools" / "rust-path").read_text()


def test_the_package_holds_agent_header_and_types() -> None:
    package = Path(mmiotap.__file__).parent
    assert (package / "include" / "mmiotap.h").is_file()
    assert (package / "py.typed").is_file()
    assert launch.find_agent().parent == package


def test_the_agent_exports_only_what_it_stands_in_for() -> None:
    """Anything more could take the place of a function of the program."""
    listing = subprocess.run(
        ["nm", "-D", "--defined-only", launch.find_agent()], check=True, capture_output=True, text=True, timeout=60
    ).stdout
    interpose = ROOT / "agent" / "src" / "interpose"
    table = (interpose / "calls.rs").read_text().split("\ncalls! {\n")[1].split("\n}\n")[0]
    with_memory = {name for names in re.findall(r"^    ([\w ]+): ", table, re.MULTILINE) for name in names.split()}
    with_memory |= set(re.findall(r"^    (__\w+_chk)\(", (interpose / "checked.rs").read_text(), re.MULTILINE))
    assert {"read", "__read_chk", "stat", "execve"} <= with_memory
    assert {line.split()[-1] for line in listing.splitlines()} == with_memory | {
        *("mmap", "mmap64", "munmap", "mremap", "mprotect"),
        *("sigaction", "__sigaction", "signal", "bsd_signal", "ssignal", "sysv_signal", "__sysv_signal"),
        *("sigprocmask", "pthread_sigmask", "pthread_attr_setsigmask_np", "pthread_attr_getsigmask_np"),
        *("setjmp", "__sigsetjmp", "longjmp", "_longjmp", "siglongjmp", "__longjmp_chk"),
        *("getcontext", "setcontext", "swapcontext", "makecontext"),
        *("pthread_create", "thrd_create", "syscall", "_Unwind_Find_FDE"),
        *("mmiotap_agent_mark", "mmiotap_agent_patch", "mmiotap_agent_unpatch"),
        *("mmiotap_agent_prepare", "mmiotap_agent_attach", "mmiotap_agent_detach"),
    }


def test_the_installed_command_runs(tmp_path: Path) -> None:
    command = Path(sys.executable).with_name("mmiotap")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        [command, "--version"], capture_output=True, text=True, timeout=60, cwd=tmp_path, env=environment
    )
    assert (result.returncode, result.stdout) == (0, f"mmiotap {metadata.version('mmiotap')}\n")


def test_what_is_not_python_is_packaged_too() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["mmiotap"]
    tree = ROOT / "src" / "mmiotap"
    built = {".pyc", ".so"}
    files = {path for path in tree.rglob("*") if path.is_file() and path.suffix not in built | {".py"}}
    assert files == {path for pattern in patterns for path in tree.glob(pattern)}
