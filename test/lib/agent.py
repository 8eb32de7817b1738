#!/usr/bin/env python3
"""Makes system calls step by step, as a test says: reads JSON lines, each a list of steps [name, argument...], and prints for each line the
list of what came of them: {"is": VALUE} or {"fails": ERRNO_NAME}. One process keeps its caches and open files from step to step.
"""
import ctypes
import errno
import json
import mmap
import os
import stat
import sys

os.umask(0o022)
libc = ctypes.CDLL(None, use_errno=True)
AT_FDCWD = -100
AT_SYMLINK_FOLLOW = 0x400


class Dirent(ctypes.Structure):
    _fields_ = [
        ("ino", ctypes.c_uint64),
        ("offset", ctypes.c_int64),
        ("length", ctypes.c_uint16),
        ("type", ctypes.c_uint8),
        ("name", ctypes.c_char * 256),
    ]


libc.opendir.restype = ctypes.c_void_p
libc.readdir.restype = ctypes.POINTER(Dirent)
libc.readdir.argtypes = libc.rewinddir.argtypes = libc.closedir.argtypes = [ctypes.c_void_p]
files = {}
maps = {}
directories = {}
# Two names of one number.
error_names = {**errno.errorcode, errno.EOPNOTSUPP: "EOPNOTSUPP"}


def raising(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
    return result


def open_read(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.read(fd, 1 << 20).decode("latin1")
    finally:
        os.close(fd)


def open_write(path, text, flags):
    fd = os.open(path, flags, 0o644)
    try:
        os.write(fd, text.encode("latin1"))
    finally:
        os.close(fd)


def status(path):
    s = os.lstat(path)
    return [s.st_ino, s.st_mode, s.st_nlink, s.st_uid, s.st_gid, s.st_size, s.st_mtime_ns, s.st_ctime_ns]


def hold(key, path, flags):
    files[key] = os.open(path, flags)


def let_go(key):
    os.close(files.pop(key))


def map_file(key, length):
    maps[key] = mmap.mmap(files[key], length, mmap.MAP_SHARED, mmap.PROT_READ)


def map_read(path, length):
    """The file stays open and mapped from the first time on."""
    if path not in maps:
        hold(path, path, os.O_RDONLY)
        map_file(path, length)
    return maps[path][:length].decode("latin1")


def map_write(path, text):
    fd = os.open(path, os.O_RDWR)
    try:
        with mmap.mmap(fd, len(text), mmap.MAP_SHARED) as mapped:
            mapped[:] = text.encode("latin1")
            mapped.flush()
    finally:
        os.close(fd)


def unmap_all():
    for key in list(maps):
        maps.pop(key).close()
        let_go(key)
    for path in list(directories):
        libc.closedir(directories.pop(path))


def list_again(path):
    """The directory stays open from the first time on."""
    if path not in directories:
        directories[path] = libc.opendir(os.fsencode(path))
    libc.rewinddir(directories[path])
    names = []
    while entry := libc.readdir(directories[path]):
        names.append(entry.contents.name.decode("latin1"))
    return sorted(set(names) - {".", ".."})


def kind(path):
    """What does not depend on the file system: no inode numbers, and no sizes of directories."""
    s = os.lstat(path)
    return [oct(s.st_mode), s.st_nlink, s.st_uid, s.st_gid, -1 if stat.S_ISDIR(s.st_mode) else s.st_size]


def mtime_seconds(path, now_from):
    """Of a time of today: "now"."""
    seconds = os.lstat(path).st_mtime_ns // 10**9
    return seconds if seconds < now_from else "now"


def fallocate(key, mode, offset, length):
    raising(libc.fallocate(files[key], mode, ctypes.c_long(offset), ctypes.c_long(length)))


def hold_tmpfile(key, directory):
    files[key] = os.open(directory, os.O_TMPFILE | os.O_RDWR, 0o600)


def give_name(key, path):
    source = b"/proc/self/fd/%d" % files[key]
    raising(libc.linkat(AT_FDCWD, source, AT_FDCWD, os.fsencode(path), AT_SYMLINK_FOLLOW))


def holes(key):
    """Where data begins and ends, in whole blocks of 4096 bytes."""
    found, at, size = [], 0, os.fstat(files[key]).st_size
    while at < size:
        try:
            start = os.lseek(files[key], at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                break
            raise
        at = os.lseek(files[key], start, os.SEEK_HOLE)
        found.append([start // 4096, -(-at // 4096)])
    return found


steps = {
    "stat": status,
    "kind": kind,
    "mtime": mtime_seconds,
    "exists": os.path.lexists,
    "read": open_read,
    "list_again": list_again,
    "list": lambda path: sorted(os.listdir(path)),
    "list_and_stat": lambda path: sorted([entry.name, entry.stat(follow_symlinks=False).st_ino] for entry in os.scandir(path)),
    "readlink": os.readlink,
    "getxattr": lambda path, name: os.getxattr(path, name).decode("latin1"),
    "listxattr": lambda path: sorted(os.listxattr(path)),
    "create": lambda path, text="": open_write(path, text, os.O_WRONLY | os.O_CREAT | os.O_EXCL),
    "write": lambda path, text: open_write(path, text, os.O_WRONLY),
    "rewrite": lambda path, text: open_write(path, text, os.O_WRONLY | os.O_TRUNC),
    "append": lambda path, text: open_write(path, text, os.O_WRONLY | os.O_APPEND),
    "unlink": os.unlink,
    "rename": os.rename,
    "mkdir": os.mkdir,
    "rmdir": os.rmdir,
    "link": os.link,
    "symlink": os.symlink,
    "chmod": os.chmod,
    "chown": os.chown,
    "utime": lambda path, mtime_ns: os.utime(path, ns=(mtime_ns, mtime_ns)),
    "truncate": os.truncate,
    "setxattr": lambda path, name, value: os.setxattr(path, name, value.encode("latin1")),
    "removexattr": os.removexattr,
    "setxattr_flags": lambda path, name, value, flags: os.setxattr(path, name, value.encode("latin1"), flags),
    "rename_flags": lambda source, target, flags: raising(
        libc.renameat2(AT_FDCWD, os.fsencode(source), AT_FDCWD, os.fsencode(target), flags)
    ),
    "fallocate": fallocate,
    "ftruncate": lambda key, size: os.ftruncate(files[key], size),
    "copy_range": lambda source, target, length, offset, to: os.copy_file_range(files[source], files[target], length, offset, to),
    "holes": holes,
    "hold_tmpfile": hold_tmpfile,
    "give_name": give_name,
    "hold": hold,
    "let_go": let_go,
    "pread": lambda key, length, offset: os.pread(files[key], length, offset).decode("latin1"),
    "pwrite": lambda key, text, offset: os.pwrite(files[key], text.encode("latin1"), offset),
    "fsync": lambda key: os.fsync(files[key]),
    "fstat_size": lambda key: os.fstat(files[key]).st_size,
    "blocks": lambda key: os.fstat(files[key]).st_blocks,
    "fstat_links": lambda key: os.fstat(files[key]).st_nlink,
    "map": map_file,
    "mapped": lambda key, length: maps[key][:length].decode("latin1"),
    "map_read": map_read,
    "map_write": map_write,
    "unmap_all": unmap_all,
    "chdir": os.chdir,
    "getcwd": os.getcwd,
}

for line in sys.stdin:
    results = []
    for name, *arguments in json.loads(line):
        try:
            results.append({"is": steps[name](*arguments)})
        except OSError as error:
            results.append({"fails": error_names.get(error.errno, str(error.errno))})
    print(json.dumps(results), flush=True)
