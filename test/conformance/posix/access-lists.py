"""POSIX access control lists: acl(5), and the kernel's format of the two attributes."""
import os
import struct

from rules import as_user, equal, fails, make, mode_of, rule, said

ACCESS = "system.posix_acl_access"
DEFAULT = "system.posix_acl_default"
NOBODY = 0xFFFFFFFF
USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 1, 2, 4, 8, 16, 32
MINIMAL = ((USER_OBJ, 6, NOBODY), (GROUP_OBJ, 4, NOBODY), (OTHER, 4, NOBODY))
NAMED = ((USER_OBJ, 6, NOBODY), (USER, 6, 1000), (GROUP_OBJ, 4, NOBODY), (MASK, 6, NOBODY), (OTHER, 0, NOBODY))


def packed(entries):
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def access_of(path, name=ACCESS):
    value = os.getxattr(path, name)
    return tuple(struct.iter_unpack("<HHI", value[4:]))


@rule("a list that says no more than the mode becomes the mode")
def _():
    make("f", mode=0o600)
    os.setxattr("f", ACCESS, packed(MINIMAL))
    equal(mode_of("f"), 0o644)
    fails("ENODATA", os.getxattr, "f", ACCESS)
    equal(os.listxattr("f"), [])


@rule("the mask of a list is the group bits of the mode, and chmod changes it")
def _():
    make("f")
    os.setxattr("f", ACCESS, packed(NAMED))
    equal(mode_of("f"), 0o660)
    equal(os.listxattr("f"), [ACCESS])
    os.chmod("f", 0o604)
    equal(access_of("f")[3], (MASK, 0, NOBODY))
    equal(access_of("f")[1], (USER, 6, 1000))


@rule("a list decides who may open, at once after each change")
def _():
    os.chmod(".", 0o755)
    make("f", "text", mode=0o600)
    allowed = lambda: open("f").read()
    refused = lambda: fails("EACCES", open, "f")
    as_user(1000, refused)
    os.setxattr("f", ACCESS, packed(NAMED))
    as_user(1000, allowed)
    as_user(1001, refused)
    os.chmod("f", 0o600)
    as_user(1000, refused)
    os.chmod("f", 0o660)
    as_user(1000, allowed)
    os.removexattr("f", ACCESS)
    as_user(1000, refused)


@rule("only the owner may change a list, and it loses setgid when the group is not the owner's")
def _():
    os.chmod(".", 0o755)
    make("f")
    os.chown("f", 1000, 50)
    os.chmod("f", 0o2755)
    as_user(1001, lambda: fails("EPERM", os.setxattr, "f", ACCESS, packed(NAMED)))
    as_user(1000, lambda: os.setxattr("f", ACCESS, packed(NAMED)))
    equal(mode_of("f"), 0o660)


@rule("a new file gets the directory's default list instead of the umask, as far as its mode allows")
def _():
    os.mkdir("d")
    default = ((USER_OBJ, 7, NOBODY), (USER, 7, 1000), (GROUP_OBJ, 5, NOBODY), (MASK, 7, NOBODY), (OTHER, 5, NOBODY))
    os.setxattr("d", DEFAULT, packed(default))
    os.umask(0o077)
    make("d/f", mode=0o640)
    equal(mode_of("d/f"), 0o640)
    equal(access_of("d/f")[3], (MASK, 4, NOBODY))
    equal(access_of("d/f")[1], (USER, 7, 1000))
    fails("ENODATA", os.getxattr, "d/f", DEFAULT)
    os.mkdir("d/sub")
    equal(mode_of("d/sub"), 0o775)
    equal(os.getxattr("d/sub", DEFAULT), packed(default))
    os.mkfifo("d/pipe", 0o666)
    equal(mode_of("d/pipe"), 0o664)
    os.symlink("f", "d/link")
    equal(mode_of("d/link"), 0o777)
    make("plain", mode=0o666)
    equal(mode_of("plain"), 0o600, "without a default list the umask counts, and the mode")


@rule("a list that is none is refused, and so is one where none can be")
def _():
    make("f")
    os.symlink("f", "link")
    fails("EOPNOTSUPP", os.setxattr, "f", ACCESS, b"nonsense")
    fails("EINVAL", os.setxattr, "f", ACCESS, packed(NAMED[:2]))
    fails("EACCES", os.setxattr, "f", DEFAULT, packed(NAMED))
    fails("EOPNOTSUPP", os.setxattr, "link", ACCESS, packed(NAMED), follow_symlinks=False)


@rule("removing a list that is not there is no failure")
def _():
    make("f")
    os.removexattr("f", ACCESS)
    os.mkdir("d")
    os.removexattr("d", DEFAULT)
    fails("ENODATA", os.removexattr, "f", "user.none")


@rule("cp -a, rsync -aA and setfacl --restore keep lists")
def _():
    os.mkdir("a")
    said("setfacl", "-m", "u:1000:rx,g:50:rwx,d:u:1001:rw", "a")
    make("a/f")
    said("setfacl", "-m", "u:1002:rw", "a/f")
    lists = lambda directory: [said("getfacl", "-cn", f"{directory}{name}") for name in ("", "/f")]
    said("cp", "-a", "a", "copied")
    said("rsync", "-aA", "a/", "synced/")
    equal(lists("copied"), lists("a"))
    equal(lists("synced"), lists("a"))
    backup = said("getfacl", "-R", "a")
    before = lists("a")
    said("setfacl", "-R", "-b", "a")
    assert lists("a") != before
    with open("backup", "w") as file:
        file.write(backup)
    said("setfacl", "--restore=backup")
    equal(lists("a"), before)
