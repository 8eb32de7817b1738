"""Owners, modes, sticky and setgid directories, and what clears setuid and setgid."""
import os
import resource
import signal

from rules import as_user, equal, fails, make, mode_of, rule


@rule("owner, group, supplementary groups and others")
def _():
    os.chmod(".", 0o755)
    make("f", "text")
    os.chown("f", 1000, 2000)
    os.chmod("f", 0o640)
    refused = lambda: fails("EACCES", open, "f")
    as_user(1000, lambda: open("f", "r+"))
    as_user(1001, lambda: open("f"), gid=2000)
    as_user(1001, lambda: open("f"), groups=(5, 2000))
    as_user(1001, refused)
    os.chmod("f", 0o007)
    as_user(1000, refused)
    as_user(1001, refused, groups=(2000,))
    as_user(1002, lambda: open("f"))


@rule("search and write permission of directories")
def _():
    os.chmod(".", 0o755)
    os.mkdir("d", 0o755)
    make("d/f")
    os.chown("d", 1000, 1000)
    os.chown("d/f", 1000, 1000)
    os.chmod("d", 0o744)
    as_user(1001, lambda: equal(os.listdir("d"), ["f"]))
    as_user(1001, lambda: fails("EACCES", os.stat, "d/f"))
    os.chmod("d", 0o711)
    as_user(1001, lambda: fails("EACCES", os.listdir, "d"))
    as_user(1001, lambda: os.stat("d/f"))
    as_user(1001, lambda: fails("EACCES", os.unlink, "d/f"))
    as_user(1000, lambda: os.unlink("d/f"))


@rule("in a sticky directory only owners remove and rename")
def _():
    os.mkdir("d")
    os.chmod(".", 0o755)
    os.chmod("d", 0o1777)
    make("d/f")
    make("d/g")
    os.chown("d/f", 1000, 1000)
    os.chown("d/g", 1001, 1001)

    def other():
        fails("EPERM", os.unlink, "d/f")
        fails("EPERM", os.rename, "d/f", "d/h")
        fails("EPERM", os.rename, "d/g", "d/f")
        os.rename("d/g", "d/h")
        os.unlink("d/h")

    as_user(1001, other)
    as_user(1000, lambda: os.unlink("d/f"))


@rule("a setgid directory hands on its group, and itself to directories")
def _():
    os.mkdir("d")
    os.chown("d", 1000, 2000)
    os.chmod("d", 0o2777)
    os.chmod(".", 0o755)

    def user():
        make("d/f")
        os.mkdir("d/sub")
        os.symlink("x", "d/link")
        os.mkfifo("d/pipe")
        fd = os.open("d/executable", os.O_CREAT | os.O_WRONLY, 0o2775)
        os.close(fd)

    as_user(1001, user)
    for name in ("f", "sub", "link", "pipe"):
        equal(os.lstat(f"d/{name}").st_gid, 2000, name)
        equal(os.lstat(f"d/{name}").st_uid, 1001, name)
    equal(mode_of("d/sub"), 0o2755)
    equal(mode_of("d/f"), 0o644)
    equal(mode_of("d/executable") & 0o2000, 0, "setgid for who is not in the group")


@rule("chown and writing clear setuid and setgid, not for directories and without execution")
def _():
    os.chmod(".", 0o755)

    def fresh(mode):
        if os.path.exists("f"):
            os.unlink("f")
        make("f", "text")
        os.chown("f", 1000, 1000)
        os.chmod("f", mode)

    fresh(0o6755)
    os.chown("f", 1001, 1001)
    equal(mode_of("f"), 0o755, "after chown by root")
    fresh(0o2745)
    os.chown("f", 1001, 1001)
    equal(mode_of("f"), 0o2745, "setgid without group execution")
    fresh(0o6777)
    as_user(1001, lambda: open("f", "r+").write("x"))
    equal(mode_of("f"), 0o777, "after a write by another")
    fresh(0o6777)
    as_user(1001, lambda: os.truncate("f", 1))
    equal(mode_of("f"), 0o777, "after truncate by another")
    fresh(0o6777)
    as_user(1001, lambda: os.close(os.open("f", os.O_WRONLY | os.O_TRUNC)))
    equal(mode_of("f"), 0o777, "after O_TRUNC by another")
    fresh(0o6777)
    as_user(1001, lambda: os.posix_fallocate(os.open("f", os.O_WRONLY), 0, 9))
    equal(mode_of("f"), 0o777, "after fallocate by another")
    fresh(0o6777)
    as_user(1001, lambda: os.copy_file_range(os.open("f", os.O_RDONLY), os.open("f", os.O_WRONLY), 1, 0, 9))
    equal(mode_of("f"), 0o777, "after copy_file_range by another")
    fresh(0o6777)
    open("f", "r+").write("x")
    equal(mode_of("f"), 0o6777, "after a write by root")
    os.mkdir("d")
    os.chmod("d", 0o6755)
    os.chown("d", 1001, 1001)
    equal(mode_of("d"), 0o6755, "a directory")


@rule("who may chmod and chown, and setgid goes when the owner is not in the group")
def _():
    os.chmod(".", 0o755)
    make("f")
    os.chown("f", 1000, 2000)

    def owner():
        os.chmod("f", 0o2755)
        fails("EPERM", os.chown, "f", 1001, -1)
        fails("EPERM", os.chown, "f", -1, 3000)
        os.chown("f", -1, 4000)

    as_user(1000, owner, groups=(4000,))
    equal((mode_of("f"), os.stat("f").st_gid), (0o755, 4000))
    as_user(1001, lambda: fails("EPERM", os.chmod, "f", 0o600))
    as_user(1001, lambda: fails("EPERM", os.chown, "f", 1001, -1))


@rule("a file made without permissions is open all the same")
def _():
    os.chmod(".", 0o777)

    def user():
        fd = os.open("f", os.O_CREAT | os.O_RDWR, 0)
        os.write(fd, b"text")
        equal(os.pread(fd, 9, 0), b"text")
        fails("EACCES", open, "f")

    as_user(1000, user)


@rule("umask")
def _():
    os.umask(0o027)
    make("f", mode=0o666)
    os.mkdir("d", 0o777)
    equal((mode_of("f"), mode_of("d")), (0o640, 0o750))


@rule("the limit of file sizes: EFBIG and a signal")
def _():
    def limited():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        fd = os.open("f", os.O_CREAT | os.O_RDWR)
        equal(os.pwrite(fd, b"x" * 20_000, 0), 10_000)
        fails("EFBIG", os.pwrite, fd, b"x", 10_000)
        fails("EFBIG", os.ftruncate, fd, 10_001)
        fails("EFBIG", os.posix_fallocate, fd, 0, 10_001)

    os.chmod(".", 0o777)
    as_user(1000, limited)
    equal(os.stat("f").st_size, 10_000)
