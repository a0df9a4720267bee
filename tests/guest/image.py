"""What a guest starts with: a stock Debian kernel, and the first files that it sees."""

import lzma
import os
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
#: What the kernel needs to come to this machine's files.
MODULES = ("9p", "virtio_pci", "9pnet_virtio")
#: In a bzImage: number of 512-byte sectors after the first that hold 16-bit code; after those, begin and length of the
#: compressed kernel (Documentation/x86/boot.rst).
SETUP_SECTORS, PAYLOAD = 0x1F1, 0x248
XZ = b"\xfd7zXZ\0"


def kernel() -> Path:
    """The kernel that setup.sh unpacked.

    Raises:
        FileNotFoundError: it did not run.
    """
    for image in (HERE.parent.parent / ".cache" / "guest" / "root" / "boot").glob("vmlinuz-*"):
        return image
    raise FileNotFoundError(f"no guest kernel; run {HERE / 'setup.sh'} as root")


def unpacked(packed: Path) -> Path:
    """The same kernel as QEMU starts it at once: the guest would need four seconds to undo its compression.

    Made the first time, beside it. A kernel that is not packed by xz is booted as it is.
    """
    image = packed.with_name(packed.name.replace("vmlinuz", "vmlinux"))
    if image.exists():
        return image
    whole = packed.read_bytes()
    offset, length = struct.unpack_from("<II", whole, PAYLOAD)
    begin = (whole[SETUP_SECTORS] + 1) * 512 + offset
    payload = whole[begin : begin + length]
    if not payload.startswith(XZ):
        return packed
    # After the stream comes the length of what is in it. Two guests may get here at once.
    new = image.with_name(f"{image.name}.{os.getpid()}")
    new.write_bytes(lzma.LZMADecompressor().decompress(payload))
    return new.replace(image)


def make_initramfs(file: Path, packed: Path) -> None:
    """What this kernel begins with: ``init``, the tools that it uses, and modules in the order of their loading."""
    version = packed.name.removeprefix("vmlinuz-")
    shown: list[str | Path] = ["/sbin/modprobe", "-d", packed.parent.parent, "-S", version]
    shown += ["--show-depends", "-a", *MODULES]
    lines = subprocess.run(shown, check=True, capture_output=True, text=True, timeout=60).stdout.splitlines()
    needed = list(dict.fromkeys(Path(line.split()[1]) for line in lines))
    with tempfile.TemporaryDirectory() as name:
        tree = Path(name)
        for place in ("bin", "dev", "modules", "proc", "root", "sys"):
            (tree / place).mkdir()
        shutil.copy("/bin/busybox", tree / "bin")
        shutil.copy(Path(__file__).parent / "init", tree)
        for number, module in enumerate(needed):
            shutil.copy(module, tree / "modules" / f"{number:02}-{module.name}")
        paths = "\n".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*")))
        archive = ["busybox", "cpio", "-o", "-H", "newc"]
        with file.open("wb") as out:
            subprocess.run(archive, cwd=tree, input=paths.encode(), stdout=out, stderr=subprocess.DEVNULL, check=True)
