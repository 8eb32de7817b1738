"""Extended attributes: xattr(7), setxattr(2), listxattr(2)."""
import ctypes
import os

from rules import as_user, equal, fails, make, rule


@rule("create and replace")
def _():
    make("f")
    fails("ENODATA", os.setxattr, "f", "user.a", b"1", os.XATTR_REPLACE)
    os.setxattr("f", "user.a", b"1", os.XATTR_CREATE)
    fails("EEXIST", os.setxattr, "f", "user.a", b"2", os.XATTR_CREATE)
    os.setxattr("f", "user.a", b"22", os.XATTR_REPLACE)
    equal(os.getxattr("f", "user.a"), b"22")
    os.setxattr("f", "user.a", b"")
    equal(os.getxattr("f", "user.a"), b"")
    os.removexattr("f", "user.a")
    fails("ENODATA", os.getxattr, "f", "user.a")
    fails("ENODATA", os.removexattr, "f", "user.a")


@rule("how long a value or the list is, and that it does not fit")
def _():
    libc = ctypes.CDLL(None, use_errno=True)

    def call(function, *arguments):
        length = function(b"f", *arguments)
        if length < 0:
            raise OSError(ctypes.get_errno(), "f")
        return length

    make("f")
    os.setxattr("f", "user.a", b"12345")
    equal(call(libc.getxattr, b"user.a", None, 0), 5)
    equal(call(libc.listxattr, None, 0), 7)
    room = ctypes.create_string_buffer(100)
    fails("ERANGE", call, libc.getxattr, b"user.a", room, 4)
    fails("ERANGE", call, libc.listxattr, room, 6)
    equal(call(libc.getxattr, b"user.a", room, 5), 5)
    equal(call(libc.listxattr, room, 7), 7)
    equal(room.raw[:7], b"user.a\0")


@rule("only the known kinds of names exist")
def _():
    make("f")
    for name, code in (
        ("system.foo", "EOPNOTSUPP"),
        ("bogus.foo", "EOPNOTSUPP"),
        ("plain", "EOPNOTSUPP"),
        ("user.", "EINVAL"),
        ("trusted.", "EINVAL"),
        ("user." + "a" * 251, "ERANGE"),
    ):
        fails(code, os.setxattr, "f", name, b"1")
        fails(code, os.getxattr, "f", name)
        fails(code, os.removexattr, "f", name)
    os.setxattr("f", "user." + "a" * 250, b"1")
    equal(os.listxattr("f"), ["user." + "a" * 250])


@rule("all bytes in values, and values of kilobytes")
def _():
    make("f")
    value = bytes(range(256)) * 12
    os.setxattr("f", "user.bytes", value)
    equal(os.getxattr("f", "user.bytes"), value)
    fails("E2BIG", os.setxattr, "f", "user.big", b"x" * 65537)


@rule("trusted attributes are the superuser's alone, and others do not see their names")
def _():
    os.chmod(".", 0o755)
    make("f")
    os.chown("f", 1000, 1000)
    os.setxattr("f", "trusted.a", b"1")
    os.setxattr("f", "security.a", b"1")
    os.setxattr("f", "user.a", b"1")
    equal(sorted(os.listxattr("f")), ["security.a", "trusted.a", "user.a"])

    def other():
        equal(sorted(os.listxattr("f")), ["security.a", "user.a"])
        fails("ENODATA", os.getxattr, "f", "trusted.a")
        fails("EPERM", os.setxattr, "f", "trusted.a", b"2")
        os.setxattr("f", "user.a", b"2")

    as_user(1000, other)
    as_user(1001, lambda: fails("EACCES", os.setxattr, "f", "user.a", b"3"))


@rule("links, pipes and devices have no user attributes")
def _():
    make("f")
    os.symlink("f", "link")
    os.mkfifo("pipe")
    fails("EPERM", os.setxattr, "link", "user.a", b"1", follow_symlinks=False)
    fails("EPERM", os.setxattr, "pipe", "user.a", b"1")
    os.setxattr("link", "trusted.a", b"1", follow_symlinks=False)
    os.setxattr("pipe", "trusted.a", b"1")
    equal(os.listxattr("link", follow_symlinks=False), ["trusted.a"])
    equal(os.listxattr("f"), [])


@rule("a change sets ctime and not mtime, and all names of the inode have it")
def _():
    make("f")
    os.link("f", "g")
    before = os.stat("f")
    os.utime("f", ns=(before.st_atime_ns, 10**18))
    os.setxattr("f", "user.a", b"1")
    after = os.stat("g")
    equal(after.st_mtime_ns, 10**18)
    assert after.st_ctime_ns > before.st_ctime_ns
    equal(os.getxattr("g", "user.a"), b"1")


@rule("no more names than can be listed")
def _():
    make("f")
    count = 0
    try:
        while count < 1000:
            os.setxattr("f", f"user.{count}".ljust(255, "x"), b"")
            count += 1
    except OSError as error:
        equal(error.strerror, "No space left on device")
    equal(len(os.listxattr("f")), count)
