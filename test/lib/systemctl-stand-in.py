#!/usr/bin/env python3
"""Stands in for systemctl(1) on machines that are namespaces: runs the units that are installed, as far as Shoal's units go.

Known: enable, daemon-reload, restart, stop, is-active. Of a unit: %i, %f, Environment, EnvironmentFile, User, Group, StateDirectory,
CapabilityBoundingSet, NoNewPrivileges, ExecStartPre, ExecStart, TimeoutStartSec, and Type=notify with its datagram. What would need
systemd itself (namespaces of ProtectSystem, restarts, dependencies) is not done. A directive that is not known to it is an error, so
that the units cannot use one that no test sees.
"""
import os, pathlib, re, shlex, signal, socket, subprocess, sys, time

UNITS = pathlib.Path("/usr/lib/systemd/system")
RUN = pathlib.Path("/run/stand-in")
IGNORED = re.compile(
    r"^(Description|Documentation|Wants|After|Before|RequiresMountsFor|StartLimit\w+|NotifyAccess|StateDirectoryMode|Restart|RestartSec"
    r"|TimeoutStopSec|Limit\w+|OOMScoreAdjust|Protect\w+|Private\w+|Restrict\w+|LockPersonality|RemoveIPC|SystemCall\w+|UMask|WantedBy)$"
)


def unescape(name):
    return re.sub(r"\\x([0-9a-f]{2})", lambda m: chr(int(m[1], 16)), name.replace("-", "/"))


def load(unit):
    name, _, instance = unit.removesuffix(".service").partition("@")
    template = UNITS / (f"{name}@.service" if instance else f"{name}.service")
    found = {}
    for line in template.read_text().splitlines():
        line = line.strip()
        if not line or line[0] in "#[":
            continue
        key, _, value = line.partition("=")
        if IGNORED.match(key):
            continue
        value = value.replace("%i", instance).replace("%f", "/" + unescape(instance))
        found.setdefault(key, []).append(value)
    return found


def pid_file(unit):
    return RUN / f"{unit}.pid"


def running(unit):
    try:
        pid = int(pid_file(unit).read_text())
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state == "Z" else pid


def stop(unit):
    pid = running(unit)
    if pid is None:
        return
    os.kill(pid, signal.SIGTERM)
    for _ in range(900):
        if running(unit) is None:
            return
        time.sleep(0.1)
    sys.exit(f"{unit} did not stop")


def start(unit):
    settings = load(unit)
    environment = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
    one = lambda key, default=None: settings.pop(key, [default])[-1]
    for value in settings.pop("Environment", []):
        environment.update([value.split("=", 1)])
    for path in settings.pop("EnvironmentFile", []):
        for line in pathlib.Path(path).read_text().splitlines():
            if line and not line.startswith("#"):
                environment.update([line.split("=", 1)])
    user, group = one("User"), one("Group")
    drop = ["setpriv"]
    if user:
        drop += [f"--reuid={user}", f"--regid={group}", "--clear-groups"]
    bounding = one("CapabilityBoundingSet", "")
    kept = [f"+{name.lower().removeprefix('cap_')}" for name in bounding.split()]
    drop += [f"--bounding-set={','.join(['-all', *kept])}"]
    if one("NoNewPrivileges") == "yes":
        drop += ["--no-new-privs"]
    state = one("StateDirectory")
    if state:
        directory = pathlib.Path("/var/lib") / state
        directory.mkdir(parents=True, exist_ok=True)
        for part in [directory, *list(directory.parents)[: len(pathlib.Path(state).parts) - 1]]:
            subprocess.run(["chown", f"{user}:{group}", str(part)], check=True)
    words = lambda text: [re.sub(r"\$\{(\w+)\}", lambda m: environment[m[1]], word) for word in shlex.split(text)]
    for command in settings.pop("ExecStartPre", []):
        ran = subprocess.run(words(command.lstrip("-")), env=environment)
        if ran.returncode != 0 and not command.startswith("-"):
            sys.exit(f"{unit}: {command} ended with {ran.returncode}")
    RUN.mkdir(parents=True, exist_ok=True)
    address = str(RUN / f"{unit}.notify")
    pathlib.Path(address).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(address)
    os.chmod(address, 0o777)
    if one("Type") != "notify":
        sys.exit(f"{unit} is not Type=notify")
    environment["NOTIFY_SOCKET"] = address
    log = open(f"/var/log/{unit}.log", "ab")
    command = drop + words(one("ExecStart"))
    listener.settimeout(float(one("TimeoutStartSec")))
    if settings:
        sys.exit(f"{unit} has directives that the stand-in does not know: {', '.join(settings)}")
    # In a directory of its own user, as systemd starts services in /.
    process = subprocess.Popen(command, env=environment, cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    pid_file(unit).write_text(str(process.pid))
    try:
        ready = b""
        while b"READY=1" not in ready:
            # With a descriptor comes the barrier of systemd-notify, which closing it lifts.
            ready, descriptors, _, _ = socket.recv_fds(listener, 4096, 8)
            for descriptor in descriptors:
                os.close(descriptor)
            if process.poll() is not None:
                sys.exit(f"{unit} ended with {process.returncode}")
        listener.settimeout(5)
        _, descriptors, _, _ = socket.recv_fds(listener, 4096, 8)
        for descriptor in descriptors:
            os.close(descriptor)
    except TimeoutError:
        sys.exit(f"{unit} was not ready in time:\n{open(f'/var/log/{unit}.log').read()[-3000:]}")


verb, arguments = sys.argv[1], sys.argv[2:]
if verb in ("daemon-reload", "enable"):
    for unit in arguments:
        load(unit)
elif verb == "restart":
    for unit in arguments:
        stop(unit)
        start(unit)
elif verb == "stop":
    for unit in arguments:
        stop(unit)
elif verb == "is-active":
    sys.exit(0 if running(arguments[0]) else 3)
else:
    sys.exit(f"systemctl {verb}: not known to the stand-in")
