#!/usr/bin/env python3
"""Runs the rules of one area in a directory: python3 rules.py AREA DIRECTORY. Each rule is a function with a sentence; it gets an empty
directory as its working directory, asserts, and is reported as one line of JSON: {"rule": SENTENCE, "failed": null or why}.
Needs root: rules become other users in child processes.
"""
import errno
import importlib
import json
import os
import shutil
import subprocess
import sys
import traceback

found = []


def rule(sentence):
    def keep(function):
        found.append((sentence, function))
        return function

    return keep


def fails(code, function, *arguments, **named):
    """The call must fail with this errno name."""
    try:
        result = function(*arguments, **named)
    except OSError as error:
        # One number has two names.
        came = errno.errorcode.get(error.errno, str(error.errno)).replace("ENOTSUP", "EOPNOTSUPP")
        assert came == code, f"fails with {came} instead of {code}"
        return
    raise AssertionError(f"gives {result!r} instead of {code}")


def equal(is_, should, what=""):
    assert is_ == should, f"{what} is {is_!r} instead of {should!r}"


def as_user(uid, function, gid=None, groups=()):
    """Calls it in a child process with these ids and no capabilities; an exception there is one here."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        came = ""
        try:
            os.setgroups(list(groups))
            os.setgid(uid if gid is None else gid)
            os.setuid(uid)
            function()
        except BaseException:
            came = traceback.format_exc(limit=4)
        os.write(writer, came.encode()[:60000])
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as answer:
        came = answer.read().decode()
    os.waitpid(pid, 0)
    assert came == "", came


def make(path, text="", mode=0o644):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def mode_of(path):
    return os.lstat(path).st_mode & 0o7777


def said(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main():
    area, directory = sys.argv[1:]
    os.umask(0o022)
    importlib.import_module(area)
    for number, (sentence, function) in enumerate(found):
        place = os.path.join(directory, f"{area}-{number}")
        os.mkdir(place)
        os.chdir(place)
        failed = None
        try:
            function()
        except Exception:
            failed = traceback.format_exc(limit=4)
        os.umask(0o022)
        os.chdir("/")
        shutil.rmtree(place, ignore_errors=True)
        print(json.dumps({"rule": sentence, "failed": failed}), flush=True)


if __name__ == "__main__":
    # The areas import this module by its name and must get this very one.
    sys.modules["rules"] = sys.modules["__main__"]
    main()
