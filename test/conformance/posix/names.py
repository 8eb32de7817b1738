"""Names and links: path_resolution(7), rename(2), link(2), unlink(2), mkdir(2)."""
import ctypes
import os

from rules import equal, fails, make, rule

libc = ctypes.CDLL(None, use_errno=True)
NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4


def rename2(source, target, flags):
    if libc.renameat2(-100, source.encode(), -100, target.encode(), flags) != 0:
        raise OSError(ctypes.get_errno(), source)


def link_descriptor(fd, name):
    follow = 0x400
    if libc.linkat(-100, f"/proc/self/fd/{fd}".encode(), -100, name.encode(), follow) != 0:
        raise OSError(ctypes.get_errno(), name)


@rule("names of 255 bytes, of any bytes but NUL and the slash")
def _():
    longest = b"n" * 255
    names = {longest, b"\n", b"\xff\xfe", b" ", b"...", b"\\", b"a:b*?"}
    for name in names:
        os.close(os.open(name, os.O_CREAT | os.O_EXCL))
    equal(set(os.listdir(b".")), names)
    for call in (os.stat, os.mkdir, os.unlink):
        fails("ENAMETOOLONG", call, longest + b"n")
    fails("ENAMETOOLONG", os.rename, longest, longest + b"n")
    equal(os.pathconf(".", "PC_NAME_MAX"), 255)


@rule("paths of up to 4095 bytes")
def _():
    here = os.getcwd()
    depth = 0
    while len(here) + depth * 201 + 300 < 4095:
        os.mkdir("d" * 200)
        os.chdir("d" * 200)
        depth += 1
    path = here + ("/" + "d" * 200) * depth
    longest = path + "/" + "f" * (4095 - len(path) - 1)
    make(longest)
    os.stat(longest)
    fails("ENAMETOOLONG", os.stat, longest + "f")
    os.chdir(here)


@rule("links of up to 4095 bytes, and forty of them in a path")
def _():
    target = "t" * 4095
    os.symlink(target, "long")
    equal(os.readlink("long"), target)
    equal(os.lstat("long").st_size, 4095)
    fails("ENAMETOOLONG", os.symlink, target + "t", "longer")
    fails("ENOENT", os.symlink, "", "empty")
    make("link0")
    for number in range(41):
        os.symlink(f"link{number}", f"link{number + 1}")
    os.stat("link40")
    fails("ELOOP", os.stat, "link41")
    os.symlink("self", "self")
    fails("ELOOP", os.stat, "self")
    fails("ELOOP", os.open, "link1", os.O_NOFOLLOW)


@rule("dots and trailing slashes")
def _():
    os.mkdir("d")
    make("f")
    fails("ENOTDIR", os.stat, "f/")
    fails("ENOTDIR", os.stat, "f/.")
    fails("EINVAL", os.rmdir, "d/.")
    fails("ENOTEMPTY", os.rmdir, "d/..")
    fails("EEXIST", os.mkdir, "d/")
    fails("EBUSY", os.rename, "d/.", "e")
    fails("EBUSY", os.rename, "d", "..")
    fails("ENOTDIR", os.rename, "f", "g/")
    os.rename("d/", "e/")
    os.mkdir("g/")
    equal(sorted(os.listdir(".")), ["e", "f", "g"])


@rule("link counts of directories are their subdirectories and two")
def _():
    os.mkdir("d")
    equal(os.stat("d").st_nlink, 2)
    os.mkdir("d/a")
    os.mkdir("d/b")
    make("d/f")
    equal(os.stat("d").st_nlink, 4)
    os.mkdir("e")
    os.rename("d/a", "e/a")
    equal((os.stat("d").st_nlink, os.stat("e").st_nlink), (3, 3))
    rename2("d/f", "e/a", EXCHANGE)
    equal((os.stat("d").st_nlink, os.stat("e").st_nlink), (4, 2))
    equal(os.stat("d/f/..").st_ino, os.stat("d").st_ino)
    os.mkdir("e/a2")
    os.rename("d/b", "e/a2")
    os.rmdir("d/f")
    equal((os.stat("d").st_nlink, os.stat("e").st_nlink), (2, 3))


@rule("what can be renamed over what")
def _():
    for name in ("full", "empty", "empty2"):
        os.mkdir(name)
    make("full/f")
    make("f")
    make("g")
    fails("ENOTEMPTY", os.rename, "empty", "full")
    fails("ENOTDIR", os.rename, "empty", "f")
    fails("EISDIR", os.rename, "f", "empty")
    fails("EINVAL", os.rename, "full", "full/sub")
    os.mkdir("full/deep")
    fails("EINVAL", os.rename, "full", "full/deep/x")
    fails("ENOTEMPTY", os.rename, "full/deep", "full")
    fails("ENOENT", os.rename, "none", "f")
    os.rename("empty", "empty2")
    os.rename("f", "g")
    os.rename("g", "g")
    os.link("g", "h")
    os.rename("g", "h")
    equal(sorted(os.listdir(".")), ["empty2", "full", "g", "h"], "two names of one inode stay")


@rule("rename without replacing, and exchanging")
def _():
    make("f", "f")
    make("g", "g")
    os.mkdir("d")
    make("d/x")
    fails("EEXIST", rename2, "f", "g", NOREPLACE)
    rename2("f", "h", NOREPLACE)
    fails("ENOENT", rename2, "h", "none", EXCHANGE)
    fails("EINVAL", rename2, "g", "h", EXCHANGE | NOREPLACE)
    rename2("g", "h", EXCHANGE)
    equal((open("g").read(), open("h").read()), ("f", "g"))
    rename2("g", "d", EXCHANGE)
    equal((open("d").read(), os.listdir("g")), ("f", ["x"]))
    fails("EINVAL", rename2, "g", "g/x", EXCHANGE)


@rule("many names of one file, which are counted")
def _():
    make("f")
    count = 1
    while count < 300:
        os.link("f", f"n{count}")
        count += 1
    equal(os.stat("n7").st_nlink, 300)
    os.mkdir("d")
    fails("EPERM", os.link, "d", "e")
    fails("EEXIST", os.link, "f", "n1")
    os.symlink("f", "s")
    os.link("s", "t", follow_symlinks=False)
    equal((os.readlink("t"), os.lstat("s").st_nlink), ("f", 2))


@rule("what was removed while it is open lives on")
def _():
    make("f", "text")
    fd = os.open("f", os.O_RDWR)
    os.unlink("f")
    equal(os.fstat(fd).st_nlink, 0)
    equal(os.pread(fd, 9, 0), b"text")
    os.fchmod(fd, 0o600)
    os.pwrite(fd, b"more", 4)
    equal(os.fstat(fd).st_size, 8)
    os.close(fd)
    os.mkdir("d")
    fd = os.open("d", os.O_RDONLY)
    os.rmdir("d")
    equal(os.listdir(fd), [])
    equal(os.fstat(fd).st_nlink, 0)
    fails("ENOENT", os.mkdir, "x", dir_fd=fd)
    os.close(fd)


@rule("a removed file that was linked again through its descriptor")
def _():
    make("f", "text")
    fd = os.open("f", os.O_RDONLY)
    os.link("f", "g")
    os.unlink("f")
    link_descriptor(fd, "again")
    equal(open("again").read(), "text")
    os.unlink("g")
    os.unlink("again")
    fails("ENOENT", link_descriptor, fd, "late")
    os.close(fd)
