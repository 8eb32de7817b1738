"""Pipes, sockets and devices: mkfifo(3), unix(7), mknod(2)."""
import os
import socket
import stat
import threading

from rules import as_user, equal, fails, make, rule


@rule("a pipe passes bytes between two who opened its name")
def _():
    os.mkfifo("pipe", 0o600)
    came = []
    reader = threading.Thread(target=lambda: came.append(open("pipe", "rb").read()))
    reader.start()
    with open("pipe", "wb") as writer:
        writer.write(b"through")
    reader.join(10)
    equal(came, [b"through"])
    fails("ENXIO", os.open, "pipe", os.O_WRONLY | os.O_NONBLOCK)
    assert stat.S_ISFIFO(os.stat("pipe").st_mode)


@rule("a socket is found by its name, also by a new one")
def _():
    server = socket.socket(socket.AF_UNIX)
    server.bind("socket")
    server.listen()
    assert stat.S_ISSOCK(os.stat("socket").st_mode)
    os.rename("socket", "moved")
    client = socket.socket(socket.AF_UNIX)
    client.connect("moved")
    client.send(b"hello")
    other, _ = server.accept()
    equal(other.recv(9), b"hello")
    fails("ENXIO", os.open, "moved", os.O_RDONLY)
    again = socket.socket(socket.AF_UNIX)
    fails("EADDRINUSE", again.bind, "moved")
    for one in (server, client, other, again):
        one.close()
    late = socket.socket(socket.AF_UNIX)
    fails("ECONNREFUSED", late.connect, "moved")
    late.close()


@rule("devices have numbers and work")
def _():
    os.mknod("null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod("block", stat.S_IFBLK | 0o600, os.makedev(4000, 300_000))
    equal(os.stat("null").st_rdev, os.makedev(1, 3))
    equal(os.stat("block").st_rdev, os.makedev(4000, 300_000))
    equal(open("null").read(), "")
    open("null", "w").write("gone")
    equal(os.stat("null").st_size, 0)
    os.mknod("file", stat.S_IFREG | 0o640)
    os.mknod("untyped", 0o640)
    equal([stat.S_IFMT(os.stat(name).st_mode) for name in ("file", "untyped")], [stat.S_IFREG] * 2)
    os.chmod(".", 0o777)
    as_user(1000, lambda: fails("EPERM", os.mknod, "mine", stat.S_IFCHR | 0o666, os.makedev(1, 3)))


@rule("special files have owners, modes, links and times as others have")
def _():
    os.mkfifo("pipe")
    os.link("pipe", "other")
    os.chown("pipe", 1, 2)
    os.chmod("other", 0o4711)
    os.utime("pipe", ns=(1, 2))
    s = os.stat("other")
    equal((s.st_nlink, s.st_uid, s.st_gid, s.st_mode & 0o7777, s.st_mtime_ns), (2, 1, 2, 0o4711, 2))
    fails("EINVAL", os.truncate, "pipe", 0)
    make("f")
    fails("ENOTDIR", os.mkfifo, "f/pipe")
