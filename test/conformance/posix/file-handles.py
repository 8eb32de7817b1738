"""File handles: name_to_handle_at(2), open_by_handle_at(2)."""
import ctypes
import os

from rules import equal, fails, make, rule

libc = ctypes.CDLL(None, use_errno=True)
AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000


class Handle(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_uint), ("type", ctypes.c_int), ("handle", ctypes.c_char * 128)]


def handle_of(path):
    handle = Handle()
    handle.bytes = 128
    mount_id = ctypes.c_int()
    if libc.name_to_handle_at(AT_FDCWD, path.encode(), ctypes.byref(handle), ctypes.byref(mount_id), 0) != 0:
        raise OSError(ctypes.get_errno(), path)
    return handle


def open_handle(handle, flags=os.O_RDONLY):
    mount = os.open(".", os.O_RDONLY)
    try:
        fd = libc.open_by_handle_at(mount, ctypes.byref(handle), flags)
        if fd < 0:
            raise OSError(ctypes.get_errno(), "open_by_handle_at")
        return fd
    finally:
        os.close(mount)


def drop_caches():
    with open("/proc/sys/vm/drop_caches", "w") as file:
        file.write("2")


@rule("a handle leads to its file, also under another name and when the kernel has forgotten it")
def _():
    make("f", "text")
    handle = handle_of("f")
    os.mkdir("d")
    os.rename("f", "d/g")
    drop_caches()
    fd = open_handle(handle)
    equal(os.read(fd, 10), b"text")
    equal(os.fstat(fd).st_ino, os.stat("d/g").st_ino)
    os.close(fd)


@rule("a directory's handle leads to the directory and to what is in it")
def _():
    os.makedirs("d/e")
    make("d/e/f", "text")
    handle = handle_of("d/e")
    drop_caches()
    fd = open_handle(handle, os.O_RDONLY | os.O_DIRECTORY)
    equal(os.listdir(fd), ["f"])
    inner = os.open("f", os.O_RDONLY, dir_fd=fd)
    equal(os.read(inner, 10), b"text")
    os.close(inner)
    os.close(fd)


@rule("the handle of a removed file is stale, whatever is made later")
def _():
    make("f")
    handle = handle_of("f")
    os.unlink("f")
    make("f")
    drop_caches()
    fails("ESTALE", open_handle, handle)
