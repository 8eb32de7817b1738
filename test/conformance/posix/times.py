"""Times: relatime, what each call changes, nanoseconds and far years, utimensat(2)."""
import os
import time

from rules import as_user, equal, fails, make, rule

PAST = 10**18
STEP = 0.02


def times(path):
    s = os.lstat(path)
    return {"a": s.st_atime_ns, "m": s.st_mtime_ns, "c": s.st_ctime_ns}


def changes(path, call):
    """Which of the times a call sets to now; the others must stay."""
    before = times(path)
    time.sleep(STEP)
    call()
    after = times(path)
    for kind in "amc":
        assert after[kind] >= before[kind], f"{kind}time went back"
    return "".join(kind for kind in "amc" if after[kind] != before[kind])


def file_at_rest(path="f", text="text"):
    make(path, text)
    time.sleep(STEP)
    open(path).read()


@rule("reading sets atime at the first time after a change, and then not for a day")
def _():
    make("f", "text")
    time.sleep(STEP)
    equal(changes("f", lambda: open("f").read()), "a")
    equal(changes("f", lambda: open("f").read()), "")
    os.chmod("f", 0o600)
    equal(changes("f", lambda: open("f").read()), "a")
    open("f", "a").write("more")
    equal(changes("f", lambda: open("f").read()), "a")
    yesterday = time.time_ns() - 86_401 * 10**9
    os.utime("f", ns=(yesterday, yesterday - 10**9))
    equal(changes("f", lambda: open("f").read()), "a")


@rule("a time of access that was set by hand stays")
def _():
    file_at_rest()
    os.utime("f", ns=(PAST, PAST))
    equal(os.stat("f").st_atime_ns, PAST)
    open("f").read()
    os.utime("f", ns=(PAST, PAST))
    time.sleep(1.5)
    equal(os.stat("f").st_atime_ns, PAST)
    make("copy", "text")
    open("copy").read()
    status = os.stat("copy")
    os.utime("copy", ns=(status.st_atime_ns - 5, status.st_mtime_ns))
    time.sleep(1.5)
    equal(os.stat("copy").st_atime_ns, status.st_atime_ns - 5)


@rule("listing and following set atime, too")
def _():
    os.mkdir("d")
    make("d/f")
    os.symlink("d", "link")
    time.sleep(STEP)
    equal(changes("d", lambda: os.listdir("d")), "a")
    equal(changes("link", lambda: os.readlink("link")), "a")


@rule("O_NOATIME leaves atime alone")
def _():
    make("f", "text")
    time.sleep(STEP)

    def read():
        fd = os.open("f", os.O_RDONLY | os.O_NOATIME)
        equal(os.read(fd, 4), b"text")
        os.close(fd)

    equal(changes("f", read), "")


@rule("what each call on a file changes")
def _():
    file_at_rest()
    fd = os.open("f", os.O_RDWR)
    equal(changes("f", lambda: os.pwrite(fd, b"x", 0)), "mc", "write")
    equal(changes("f", lambda: os.pwrite(fd, b"", 0)), "", "an empty write")
    equal(changes("f", lambda: os.ftruncate(fd, 10)), "mc", "ftruncate to another size")
    equal(changes("f", lambda: os.ftruncate(fd, 10)), "mc", "ftruncate to the same size")
    equal(changes("f", lambda: os.truncate("f", 2)), "mc", "truncate")
    equal(changes("f", lambda: os.posix_fallocate(fd, 0, 100)), "mc", "fallocate")
    os.close(fd)
    equal(changes("f", lambda: os.close(os.open("f", os.O_WRONLY | os.O_TRUNC))), "mc", "O_TRUNC")
    equal(changes("f", lambda: os.close(os.open("f", os.O_WRONLY | os.O_CREAT))), "", "open")
    equal(changes("f", lambda: os.chmod("f", 0o600)), "c", "chmod")
    equal(changes("f", lambda: os.chown("f", 1, 1)), "c", "chown")
    equal(changes("f", lambda: os.link("f", "g")), "c", "link")
    equal(changes("f", lambda: os.unlink("g")), "c", "unlink of another name")
    equal(changes("f", lambda: os.setxattr("f", "user.a", b"1")), "c", "setxattr")
    equal(changes("f", lambda: os.removexattr("f", "user.a")), "c", "removexattr")
    before = times("f")
    time.sleep(STEP)
    os.rename("f", "h")
    after = times("h")
    equal((after["a"], after["m"]), (before["a"], before["m"]), "rename")
    assert after["c"] > before["c"]


@rule("what each call changes of the directory")
def _():
    os.mkdir("d")
    os.mkdir("e")
    time.sleep(STEP)
    os.listdir("d")
    for what, call in (
        ("create", lambda: make("d/f")),
        ("link", lambda: os.link("d/f", "d/g")),
        ("symlink", lambda: os.symlink("x", "d/s")),
        ("mkdir", lambda: os.mkdir("d/sub")),
        ("mkfifo", lambda: os.mkfifo("d/pipe")),
        ("rename within", lambda: os.rename("d/g", "d/h")),
        ("rename over", lambda: os.rename("d/h", "d/s")),
        ("rename out", lambda: os.rename("d/s", "e/s")),
        ("rename into", lambda: os.rename("e/s", "d/s")),
        ("unlink", lambda: os.unlink("d/pipe")),
        ("rmdir", lambda: os.rmdir("d/sub")),
    ):
        equal(changes("d", call), "mc", what)
    equal(changes("d", lambda: open("d/f", "w").write("x")), "", "a write in it")
    equal(changes("d", lambda: os.chmod("d/f", 0o600)), "", "chmod in it")
    fails("EEXIST", os.mkdir, "d/f")
    equal(changes("d", lambda: fails("ENOTEMPTY", os.rmdir, "../" + os.path.basename(os.getcwd()))), "", "a failure")


@rule("a new inode has one time, and its birth time stays")
def _():
    make("f")
    s = os.stat("f")
    equal((s.st_atime_ns, s.st_mtime_ns), (s.st_ctime_ns, s.st_ctime_ns))
    import subprocess

    born = subprocess.run(["stat", "-c", "%w", "f"], capture_output=True, text=True, check=True).stdout
    os.utime("f", ns=(PAST, PAST))
    os.rename("f", "g")
    again = subprocess.run(["stat", "-c", "%w", "g"], capture_output=True, text=True, check=True).stdout
    equal(again, born)
    assert born.startswith("2"), born


@rule("nanoseconds, before 1970 and beyond 2038")
def _():
    make("f")
    os.symlink("f", "link")
    for seconds in (1 - 2**31, -1, 0, 2**31, 2**32 + 5, 2**33):
        wanted = (seconds * 10**9 + 123_456_789, seconds * 10**9 + 999_999_999)
        os.utime("f", ns=wanted)
        s = os.stat("f")
        equal((s.st_atime_ns, s.st_mtime_ns), wanted)
        os.utime("link", ns=wanted, follow_symlinks=False)
        s = os.lstat("link")
        equal((s.st_atime_ns, s.st_mtime_ns), wanted)


@rule("utimensat: now and omit, and who may")
def _():
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)

    def utimens(path, *pairs):
        values = (ctypes.c_long * 4)(*(number for pair in pairs for number in pair))
        if libc.utimensat(-100, path.encode(), values, 0) != 0:
            raise OSError(ctypes.get_errno(), path)

    NOW, OMIT = (0, (1 << 30) - 1), (0, (1 << 30) - 2)
    os.chmod(".", 0o755)
    make("f", mode=0o644)
    os.chown("f", 1000, 1000)
    os.utime("f", ns=(PAST, PAST))
    equal(changes("f", lambda: utimens("f", OMIT, NOW)), "mc")
    equal(changes("f", lambda: utimens("f", NOW, OMIT)), "ac")
    equal(changes("f", lambda: utimens("f", OMIT, OMIT)), "")
    fails("EINVAL", utimens, "f", (0, 10**9), (0, 0))
    as_user(1000, lambda: utimens("f", (1, 1), (1, 1)))
    as_user(1001, lambda: fails("EPERM", utimens, "f", (2, 2), (2, 2)))
    as_user(1001, lambda: fails("EACCES", utimens, "f", NOW, NOW))
    os.chmod("f", 0o666)
    as_user(1001, lambda: utimens("f", NOW, NOW))
    as_user(1001, lambda: fails("EPERM", utimens, "f", NOW, OMIT))
