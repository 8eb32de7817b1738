"""Immutable, append-only and the other flags of chattr(1): FS_IOC_SETFLAGS(2const)."""
import fcntl
import os
import struct

from rules import as_user, equal, fails, make, rule

GETFLAGS, SETFLAGS, FSGETXATTR, FSSETXATTR = 0x80086601, 0x40086602, 0x801C581F, 0x401C5820
IMMUTABLE, APPEND, NODUMP, NOATIME = 0x10, 0x20, 0x40, 0x80
KNOWN = IMMUTABLE | APPEND | NODUMP | NOATIME


def control(path, command, value):
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return fcntl.ioctl(fd, command, value)
    finally:
        os.close(fd)


def flags_of(path):
    return struct.unpack_from("<I", control(path, GETFLAGS, bytes(8)))[0]


def set_flags(path, flags):
    """Flags that are not of this suite stay."""
    control(path, SETFLAGS, struct.pack("<Q", flags_of(path) & ~KNOWN | flags))


class flagged:
    def __init__(self, path, flags):
        self.path, self.flags = path, flags

    def __enter__(self):
        set_flags(self.path, self.flags)

    def __exit__(self, *_):
        set_flags(self.path, 0)


@rule("flags are kept and told, in both ways")
def _():
    make("f")
    equal(flags_of("f") & KNOWN, 0)
    set_flags("f", NODUMP | NOATIME)
    equal(flags_of("f") & KNOWN, NODUMP | NOATIME)
    words = list(struct.unpack("<IIIII8x", control("f", FSGETXATTR, bytes(28))))
    equal(words[0] & 0xFF, 0xC0)
    words[0] &= ~0x40
    control("f", FSSETXATTR, struct.pack("<IIIII8x", *words))
    equal(flags_of("f") & KNOWN, NODUMP)
    os.mkdir("d")
    set_flags("d", NODUMP)
    make("d/f")
    equal(flags_of("d/f") & KNOWN, NODUMP, "what a new file inherits")


@rule("only the superuser makes a file immutable or append-only, only the owner sets other flags")
def _():
    os.chmod(".", 0o755)
    make("f")
    os.chown("f", 1000, 1000)
    as_user(1000, lambda: fails("EPERM", set_flags, "f", IMMUTABLE))
    as_user(1000, lambda: fails("EPERM", set_flags, "f", APPEND))
    as_user(1000, lambda: set_flags("f", NODUMP))
    as_user(1001, lambda: fails("EPERM", set_flags, "f", 0))


@rule("nothing of an immutable file changes")
def _():
    make("f", "text")
    with flagged("f", IMMUTABLE):
        for flags in (os.O_WRONLY, os.O_RDWR | os.O_APPEND, os.O_RDONLY | os.O_TRUNC):
            fails("EPERM", os.open, "f", flags)
        fails("EPERM", os.open, "f", os.O_WRONLY | os.O_CREAT)
        fails("EPERM", os.truncate, "f", 0)
        fails("EPERM", os.chmod, "f", 0o600)
        fails("EPERM", os.chown, "f", 1, 1)
        fails("EPERM", os.utime, "f")
        fails("EPERM", os.utime, "f", ns=(1, 1))
        fails("EPERM", os.setxattr, "f", "user.a", b"1")
        fails("EPERM", os.link, "f", "g")
        fails("EPERM", os.rename, "f", "g")
        fails("EPERM", os.unlink, "f")
        make("other")
        fails("EPERM", os.rename, "other", "f")
        equal(open("f").read(), "text")
    open("f", "w").write("new")
    os.unlink("f")


@rule("a file that is open for writing cannot be written once it is immutable")
def _():
    make("f", "text")
    fd = os.open("f", os.O_RDWR)
    with flagged("f", IMMUTABLE):
        fails("EPERM", os.pwrite, fd, b"x", 0)
        fails("EPERM", os.ftruncate, fd, 0)
        fails("EPERM", os.posix_fallocate, fd, 0, 10000)
    equal(os.pwrite(fd, b"T", 0), 1)
    os.close(fd)
    equal(open("f").read(), "Text")


@rule("no name comes into an immutable directory, or goes")
def _():
    os.mkdir("d")
    make("d/f")
    os.mkdir("d/sub")
    make("g")
    with flagged("d", IMMUTABLE):
        fails("EPERM", make, "d/new")
        fails("EPERM", os.mkdir, "d/new")
        fails("EPERM", os.symlink, "x", "d/new")
        fails("EPERM", os.mkfifo, "d/new")
        fails("EPERM", os.link, "g", "d/new")
        fails("EPERM", os.rename, "g", "d/new")
        fails("EPERM", os.rename, "d/f", "new")
        fails("EPERM", os.unlink, "d/f")
        fails("EPERM", os.rmdir, "d/sub")
        open("d/f", "w").write("what is in it may change")


@rule("an append-only file only grows at its end")
def _():
    make("f", "one")
    with flagged("f", APPEND):
        for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND | os.O_TRUNC):
            fails("EPERM", os.open, "f", flags)
        fd = os.open("f", os.O_WRONLY | os.O_APPEND)
        os.write(fd, b"two")
        fails("EPERM", os.ftruncate, fd, 1)
        os.close(fd)
        os.utime("f")
        fails("EPERM", os.utime, "f", ns=(1, 1))
        fails("EPERM", os.chmod, "f", 0o600)
        fails("EPERM", os.setxattr, "f", "user.a", b"1")
        fails("EPERM", os.link, "f", "g")
        fails("EPERM", os.rename, "f", "g")
        fails("EPERM", os.unlink, "f")
    equal(open("f").read(), "onetwo")


@rule("no name goes from an append-only directory, but new ones come")
def _():
    os.mkdir("d")
    make("d/f")
    with flagged("d", APPEND):
        make("d/new")
        os.mkdir("d/sub")
        os.link("d/f", "d/g")
        fails("EPERM", os.unlink, "d/f")
        fails("EPERM", os.rmdir, "d/sub")
        fails("EPERM", os.rename, "d/f", "d/h")
        make("x")
        fails("EPERM", os.rename, "x", "d/f")
        os.rename("x", "d/x")
