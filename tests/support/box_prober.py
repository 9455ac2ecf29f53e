"""A box that tries to leave one bit for the next box, or for one that runs beside it; the code runs inside a box, as
the artifact's script, and the same file reads there what a box before it left.

Channel by channel: `leave` changes something, `find` reads it, and `moved` says whether two readings differ by more
than chance. Beside that, every system call by its number, and every path that can be seen.

Not covered: how long things take (timing.py); hardware; kernels that have other calls than those up to LAST_CALL.
"""

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import json
import mmap
import os
import resource
import signal
import socket
import stat
import struct
import sys
import threading
import time

LAST_CALL = 600
TRACING = {335, 336}  # uretprobe, uprobe: no filter sees them, and they end a process that is not being traced
KEY = 0x676F6C66  # of System V objects
libc = ctypes.CDLL(None, use_errno=True)
held = []  # what must live as long as the box


def call(number, *arguments):
    """A system call by its number: (result, errno)."""
    words = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    result = libc.syscall(ctypes.c_long(number), *words)
    return result, ctypes.get_errno() if result < 0 else 0


def tried(action, *arguments):
    """The action's result, or the name of its error."""
    try:
        return action(*arguments)
    except OSError as failure:
        return errno.errorcode.get(failure.errno, failure.errno)


def differ(before, after):
    return before != after


def by_more_than(least):
    """For counters that others move a little, too."""

    def moved(before, after):
        return isinstance(before, int) and isinstance(after, int) and abs(after - before) > least

    return moved


class Channel:
    """Ways of one kind. `targets`: files that both boxes see. `moved`: whether two readings tell a bit."""

    moved = staticmethod(differ)

    def __init__(self, targets):
        self.targets = targets

    def leave(self):
        """Change something."""

    def find(self):
        """Read it: something that JSON can hold."""


class Attributes(Channel):
    def leave(self):
        for path in self.targets:
            tried(os.setxattr, path, "user.golf", b"1")

    def find(self):
        return [str(tried(os.getxattr, path, "user.golf")) for path in self.targets]


class Modes(Channel):
    def leave(self):
        for path in self.targets:
            tried(lambda path=path: os.chmod(path, os.stat(path).st_mode ^ stat.S_IXOTH))

    def find(self):
        return [os.stat(path).st_mode for path in self.targets]


class Times(Channel):
    def leave(self):
        for path in self.targets:
            tried(os.utime, path, (10**9, os.getpid() + 10**9))

    def find(self):
        return [os.stat(path).st_mtime_ns for path in self.targets]


class LastAccess(Channel):
    """Reading alone moves this time."""

    def leave(self):
        for path in self.targets:
            with open(path, "rb") as file:
                file.read(1)

    def find(self):
        return [os.stat(path).st_atime_ns for path in self.targets]


class Contents(Channel):
    def leave(self):
        for path in self.targets:
            tried(lambda path=path: open(path, "ab").write(b"\n"))

    def find(self):
        return [os.stat(path).st_size for path in self.targets]


class Names(Channel):
    """Files, folders, links, named pipes beside the files that both see, and where everybody writes."""

    def folders(self):
        return [
            *sorted({os.path.dirname(path) for path in self.targets}),
            "/",
            "/tmp",
            "/dev/shm",
            "/var/tmp",
            "/run",
            os.path.dirname(os.getcwd()),
        ]

    def leave(self):
        for folder in self.folders():
            for number, make in enumerate(
                (
                    os.mkdir,
                    os.mkfifo,
                    lambda path: open(path, "w").close(),
                    lambda path: os.symlink("golf", path),
                    lambda path: os.link(self.targets[0], path),
                )
            ):
                tried(make, f"{folder}/golf-left-{number}")

    def find(self):
        return [
            str(tried(lambda folder=folder: sorted(name for name in os.listdir(folder) if "golf-left" in name)))
            for folder in self.folders()
        ]


class WorkFolder(Channel):
    def leave(self):
        with open("golf-left", "w") as file:
            file.write("1")

    def find(self):
        return sorted(set(os.listdir(".")) - {"__pycache__"})


class SystemV(Channel):
    def leave(self):
        call(29, KEY, 4096, 0o1600)  # shmget, IPC_CREAT
        call(64, KEY, 1, 0o1600)  # semget
        call(68, KEY, 0o1600)  # msgget

    def find(self):
        return [call(29, KEY, 0, 0)[0] >= 0, call(64, KEY, 0, 0)[0] >= 0, call(68, KEY, 0)[0] >= 0]


class MessageQueue(Channel):
    def leave(self):
        call(240, b"golf", os.O_CREAT | os.O_RDWR, 0o600, 0)

    def find(self):
        return call(240, b"golf", os.O_RDONLY, 0, 0)[0] >= 0


class Keyring(Channel):
    def leave(self):
        call(248, b"user", b"golf", b"1", 1, -4)  # add_key to the user's keyring

    def find(self):
        return call(250, 10, -4, b"user", b"golf", 0)[0] >= 0  # KEYCTL_SEARCH


class Residency(Channel):
    """Which pages of a file are in memory: thrown out by advice, asked for by mincore and RWF_NOWAIT."""

    def leave(self):
        for path in self.targets:
            with open(path, "rb") as file:
                tried(os.posix_fadvise, file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def find(self):
        return [self.resident(path) for path in self.targets]

    def resident(self, path):
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            at_once = tried(os.preadv, file.fileno(), [bytearray(1)], size - 1, os.RWF_NOWAIT)
            with mmap.mmap(file.fileno(), size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE) as pages:
                seen = (ctypes.c_ubyte * (size // mmap.PAGESIZE + 1))()
                address = ctypes.addressof(ctypes.c_char.from_buffer(pages))
                known = libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(size), seen) == 0
                return [at_once, sum(flag & 1 for flag in seen) if known else None]


class Faults(Channel):
    """Which pages are in memory, counted instead of timed: a page that is not there costs a fault that the kernel
    counts. Reading brings it in."""

    def leave(self):
        for path in self.targets:
            with open(path, "rb") as file:
                while file.read(1 << 16):
                    pass

    def find(self):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_majflt
        for path in self.targets:
            with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as pages:
                sum(pages[:: mmap.PAGESIZE])
        return resource.getrusage(resource.RUSAGE_SELF).ru_majflt > before


class Counters(Channel):
    """What the kernel tells of the whole machine."""

    FILES = [
        f"/proc/{name}"
        for name in (
            "meminfo",
            "stat",
            "loadavg",
            "uptime",
            "vmstat",
            "diskstats",
            "interrupts",
            "softirqs",
            "slabinfo",
            "zoneinfo",
            "buddyinfo",
            "schedstat",
            "locks",
            "net/sockstat",
            "self/net/dev",
            "sys/fs/file-nr",
            "sys/fs/inode-nr",
            "sys/fs/dentry-state",
            "sys/kernel/random/entropy_avail",
            "pressure/cpu",
            "pressure/memory",
            "pressure/io",
            "self/smaps_rollup",
            "self/pagemap",
            "self/mountinfo",
        )
    ] + [
        "/sys/devices/system/node/node0/meminfo",
        "/sys/devices/system/node/node0/vmstat",
        "/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq",
        "/sys/block/vda/stat",
    ]

    def leave(self):
        held.append(bytearray(os.urandom(1 << 26)))

    def find(self):
        texts = []
        for path in self.FILES:
            try:
                with open(path, "rb") as file:
                    texts.append(hashlib.sha256(file.read(1 << 16)).hexdigest()[:8])
            except OSError:
                texts.append("")
        information = ctypes.create_string_buffer(256)
        known = libc.sysinfo(information) == 0
        return texts + [hashlib.sha256(information.raw).hexdigest()[:8] if known else ""]


class PipeNumbers(Channel):
    """A pipe's st_ino counts on for the whole machine, in portions of 1,024 for each core."""

    moved = staticmethod(by_more_than(100_000))

    def leave(self):
        with contextlib.suppress(OSError):
            for _ in range(250_000):
                for descriptor in os.pipe():
                    os.close(descriptor)

    def find(self):
        return os.fstat(json.loads(sys.argv[-1])["reply_fd"]).st_ino


class SharedMemoryNumbers(Channel):
    """So does that of shared memory without a name."""

    moved = staticmethod(by_more_than(30_000))

    def leave(self):
        with contextlib.suppress(OSError):
            for _ in range(100_000):
                mmap.mmap(-1, 4096).close()

    def find(self):
        return os.fstat(json.loads(sys.argv[-1])["memory_fd"]).st_ino


class FreeSpace(Channel):
    moved = staticmethod(by_more_than(50_000_000))

    def leave(self):
        for number in range(2):
            with contextlib.suppress(OSError), open(f"large-{number}", "wb") as file:
                for _ in range(120):
                    file.write(bytes(1 << 20))

    def find(self):
        room = tried(os.statvfs, ".")
        return room if isinstance(room, str) else room.f_bavail * room.f_frsize


class Locks(Channel):
    """Beside: locks on files that both see, by flock and by fcntl on open files."""

    def leave(self):
        for path in self.targets:
            file = open(path, "rb")
            held.append(file)
            tried(fcntl.flock, file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            tried(fcntl.fcntl, file, 37, struct.pack("hhqqi4x", fcntl.F_RDLCK, 0, 0, 0, 0))  # F_OFD_SETLK

    def find(self):
        readings = []
        for path in self.targets:
            with open(path, "rb") as file:
                question = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0)
                answer = tried(fcntl.fcntl, file, 36, question)  # F_OFD_GETLK
                readings.append([tried(fcntl.flock, file, fcntl.LOCK_EX | fcntl.LOCK_NB), str(answer)])
        return readings


class Futexes(Channel):
    """Beside: threads that wait at one place of a file that both see."""

    def place(self):
        file = os.open(self.targets[0], os.O_RDONLY)
        libc.mmap.restype, libc.mmap.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 4
        return libc.mmap(None, 4096, mmap.PROT_READ, mmap.MAP_SHARED, file, 0)

    def leave(self):
        waited = struct.pack("<2q", 3600, 0)
        place = self.place()
        value = int.from_bytes(b"####", "little")
        thread = threading.Thread(target=lambda: call(202, place, 0, value, waited, 0, 0), daemon=True)  # FUTEX_WAIT
        thread.start()
        time.sleep(0.5)

    def find(self):
        return call(202, self.place(), 1, 100, 0, 0, 0)[0]  # FUTEX_WAKE: how many waited


class AbstractSocket(Channel):
    """Beside: a name that only one can have."""

    def leave(self):
        with contextlib.suppress(OSError):
            held.append(socket.socket(socket.AF_UNIX))
            held[-1].bind("\0golf")

    def find(self):
        def bind():
            with socket.socket(socket.AF_UNIX) as end:
                end.bind("\0golf")

        return str(tried(bind))


class QueuedSignals(Channel):
    """Beside: the signals that all processes of a user may have waiting."""

    def leave(self):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGRTMIN})
        thread = call(186)[0]
        while call(234, os.getpid(), thread, int(signal.SIGRTMIN))[0] == 0:  # tgkill
            pass

    def find(self):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGRTMIN})
        return call(234, os.getpid(), call(186)[0], int(signal.SIGRTMIN))[0]


class Processes(Channel):
    """Beside: which processes answer, and how urgent they are."""

    def leave(self):
        tried(os.nice, 5)
        tried(lambda: os.setpriority(os.PRIO_USER, 0, 10))

    def find(self):
        answers = []
        for number in range(1, 2000):
            if number != os.getpid():
                answers.append([call(62, number, 0)[0], call(140, 0, number)[0]])  # kill, getpriority
        return hashlib.sha256(str(answers).encode()).hexdigest()[:8]


AFTER = (
    Attributes,
    Modes,
    Times,
    LastAccess,
    Contents,
    Names,
    WorkFolder,
    SystemV,
    MessageQueue,
    Keyring,
    Residency,
    Faults,
    Counters,
    PipeNumbers,
    SharedMemoryNumbers,
)


def remove_objects():
    """Outside of a box: what the prober left in the kernel where a box had no objects of its own."""
    for get, control, arguments in ((29, 31, (0, 0)), (64, 66, (0, 0)), (68, 71, (0,))):  # shm, sem, msg
        found = call(get, KEY, *arguments)[0]
        if found >= 0:
            call(control, found, *((0, 0, 0) if get == 64 else (0, 0)))  # IPC_RMID
    call(241, b"golf")  # mq_unlink
    key = call(250, 10, -4, b"user", b"golf", 0)[0]
    if key >= 0:
        call(250, 9, key, -4)  # KEYCTL_UNLINK


BESIDE = (*AFTER, FreeSpace, Locks, Futexes, AbstractSocket, QueuedSignals, Processes)


def passing_calls(allowed):
    """Numbers of system calls that do something else than refuse, but for those in `allowed`."""
    found = []
    for number in set(range(LAST_CALL)) - set(allowed) - TRACING:
        result, reason = call(number, *[-1] * 6)
        if result >= 0 or reason not in (errno.EPERM, errno.ENOSYS):
            found.append(number)
    return found


def everything():
    """Every path that can be seen, but for the work folder."""
    work = os.getcwd()
    for folder, folders, names in os.walk("/"):
        folders[:] = [name for name in folders if os.path.join(folder, name) != work]
        yield from (os.path.join(folder, name) for name in (*folders, *names))


def tries(path):
    """{call: function} that would change `path`, or make something beside it."""
    beside = path + "-golf"
    return {
        "append": lambda: os.close(os.open(path, os.O_WRONLY | os.O_APPEND)),
        "read and write": lambda: os.close(os.open(path, os.O_RDWR)),
        "truncate": lambda: os.truncate(path, 0),
        "create": lambda: os.close(os.open(beside, os.O_CREAT | os.O_WRONLY)),
        "mkdir": lambda: os.mkdir(beside),
        "mknod": lambda: os.mknod(beside),
        "symlink": lambda: os.symlink("x", beside),
        "link": lambda: os.link(path, beside),
        "rename": lambda: os.rename(path, beside),
        "unlink": lambda: os.unlink(path),
        "rmdir": lambda: os.rmdir(path),
        "chmod": lambda: os.chmod(path, 0o777),
        "chown": lambda: os.chown(path, os.getuid(), -1),
        "utime": lambda: os.utime(path),
        "setxattr": lambda: os.setxattr(path, "user.golf", b"1"),
    }


def changed_paths():
    """(call, path) of everything that could be changed outside of the work folder. Only where the root is the box's
    own: it would do harm elsewhere."""
    if os.path.exists("/etc/passwd"):
        raise RuntimeError("this is not a root of the box's own")
    found = []
    for path in everything():
        for name, action in tries(path).items():
            try:
                action()
            except OSError:
                continue
            found.append([name, path])
    return found


def states():
    """A hash over all that stat() tells of every path that can be seen; of what lies in the box's own memory, all but
    the times and the device's number, and the random name of its directory."""
    own, digest, count, home = os.stat("/").st_dev, hashlib.sha256(), 0, os.path.dirname(os.getcwd())
    for path in sorted(everything()):
        found = os.lstat(path)
        state = [path.replace(home, "home"), found.st_mode, found.st_nlink, found.st_uid, found.st_gid, found.st_size]
        if found.st_dev != own:
            state += [found.st_ino, found.st_dev, found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns]
        digest.update(repr(state).encode())
        count += 1
    return [count, digest.hexdigest()]


def run(role, names, targets, allowed=()):
    """What a box prints: for `find` and `leave` {channel: reading}, the latter before it leaves something; for `all`
    states, calls and paths."""
    channels = {kind.__name__: kind(targets[kind.__name__]) for kind in BESIDE if kind.__name__ in names}
    if role == "all":
        return {"states": states(), "calls": passing_calls(allowed), "paths": changed_paths()}
    readings = {name: channel.find() for name, channel in channels.items()}
    if role == "leave":
        for channel in channels.values():
            channel.leave()
    return readings
