"""Layers that the box puts around itself before it loads anything of the artifact. The box gets a copy of this file:
stdlib only.

Each layer is tried and reported as active or missing, with what a missing one leaves open; only `--certify` insists on
all of them. On Linux: namespaces (users, network, processes, mounts, System V), Landlock (which files can be read and
written), a seccomp filter in classic BPF (which system calls), resource limits. Elsewhere: the resource limits.

NOT covered: bugs of the kernel; the shared hardware (caches, timing); names, sizes and times of files, which stat()
tells even where reading is refused; a GPU's memory and driver. On a GPU the box may start processes (Triton calls a
compiler), and only a control group (cgroup.py) limits its memory, because CUDA reserves address space far beyond what
it uses.
"""

import ctypes
import os
import platform
import resource
import signal
import struct
import sys
import sysconfig
from importlib.machinery import PathFinder

CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER = 0x20000, 0x08000000, 0x10000000  # linux/sched.h
CLONE_NEWPID, CLONE_NEWNET, CLONE_NEWCGROUP = 0x20000000, 0x40000000, 0x02000000
CLONE_THREAD, CLONE_NEWUTS = 0x10000, 0x04000000
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 22, 38  # linux/prctl.h
MAX_FILE_BYTES = 1 << 28
MAX_OPEN_FILES = 1024
MAX_PROCESSES = 512  # threads count, and torch and CUDA start many

# Landlock (linux/landlock.h): rights by the version of the interface that brought them.
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
MAKE_CHAR, MAKE_SOCK, MAKE_BLOCK, TRUNCATE, IOCTL_DEV = 1 << 6, 1 << 9, 1 << 11, 1 << 14, 1 << 15
RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
FILE_RIGHTS = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
READ = EXECUTE | READ_FILE | READ_DIR
O_PATH = 0o10000000

# What torch, glibc and a compiler read of the system; everything else of it stays closed. Not /usr/share (dictionaries,
# corpora) and no package folder of the interpreter: what may be imported is listed by name.
SYSTEM = (
    "/lib64",
    "/usr/lib64",
    "/usr/bin",
    "/bin",
    "/usr/include",
    "/usr/local/include",
    "/usr/libexec",
    "/usr/local/cuda",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/alternatives",
    "/etc/localtime",
    "/dev/urandom",
    "/dev/random",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/filesystems",
    "/proc/sys/vm/overcommit_memory",
    "/proc/sys/kernel/osrelease",
    "/sys/devices/system",
    "/sys/kernel/mm/transparent_hugepage",
)
GPU = (
    "/proc/driver/nvidia",
    "/proc/devices",
    "/proc/modules",
    "/sys/bus/pci",
    "/sys/devices",
    "/sys/module/nvidia",
    "/sys/class/drm",
    "/etc/nvidia",
    "/usr/share/nvidia",
    "/run/nvidia-persistenced",
)

# System calls that a model has no use for: other processes' memory, new privileges, the kernel's rarely used corners.
# Numbers of x86-64 and arm64 (asm/unistd_64.h, asm-generic/unistd.h).
DENIED = {
    "socket": (41, 198),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "pidfd_open": (434, 434),
    "kcmp": (312, 272),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "unshare": (272, 97),
    "setns": (308, 268),
    "userfaultfd": (323, 282),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    "fanotify_init": (300, 262),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "syslog": (103, 116),
    "personality": (135, 92),
    "clock_settime": (227, 112),
    "settimeofday": (164, 170),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "lookup_dcookie": (212, 18),
    "vhangup": (153, 58),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
}
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, AUDIT_ARCH (linux/audit.h)
CLONE, CLONE3, FORK, VFORK, PRCTL = (56, 220), (435, 435), (57, None), (58, None), (157, 167)

# What a missing layer leaves open; the report prints it.
OPEN = {
    "own session, no inherited descriptors, empty environment": "the box shares the terminal of the scorer",
    "network namespace": "the artifact can use the network",
    "process namespace": "the artifact sees other processes, and one that leaves the session outlives the box",
    "own /proc": "/proc shows the processes of the machine (Landlock, where active, closes their files)",
    "no new privileges": "set-uid programs can give the artifact more rights",
    "Landlock: files": "the artifact can read what the user who scores can read, and write there",
    "seccomp: system calls": "sockets, ptrace and other processes' memory are left to the kernel's own rules",
    "no new processes": "the artifact can start programs, each with memory of its own",
    "limit on memory": "the artifact can use up the machine's memory",
    "ends with the scorer": "a box outlives a scorer that is killed until it next reads its pipe",
    "limit on CPU time": "only the time limit ends a busy box",
    "limit on file size": "the disk can be filled",
    "limit on open files": "descriptors of the machine can be used up",
    "limit on processes": "threads and processes can use up the machine's process table",
    "no core dumps": "a crash can leave a memory image on disk",
}


def confine(options):
    """Apply every layer that the kernel grants; must run while the process has one thread. Returns [(layer, active,
    note)] in the process that may go on.

    options: cpu_seconds; memory_bytes (None: no limit but the group's); group (folder of a control group, or None);
    processes (bool: may start some); packages (paths that may be imported); close (descriptors that only that process
    keeps). With a process namespace the caller's process stays outside as a guardian that waits and passes on the exit
    status (128 + signal); this function returns in a grandchild."""
    layers = {"own session, no inherited descriptors, empty environment": (os.getsid(0) == os.getpid(), "")}
    grouped, group_note = _join(options["group"])  # first: children are born into it, and later no file opens
    root = os.getuid() == 0 and _read("/proc/self/uid_map").split() == ["0", "0", "4294967295"]
    got, reason = _namespaces()
    layers["ends with the scorer"] = _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    layers["limit on CPU time"] = _limit("RLIMIT_CPU", options["cpu_seconds"], "s")
    layers["limit on file size"] = _limit("RLIMIT_FSIZE", MAX_FILE_BYTES, "bytes")
    layers["limit on open files"] = _limit("RLIMIT_NOFILE", MAX_OPEN_FILES, "files")
    layers["no core dumps"] = _limit("RLIMIT_CORE", 0, "bytes")
    layers["network namespace"] = bool(got & CLONE_NEWNET), reason
    layers["process namespace"] = bool(got & CLONE_NEWPID), reason
    if got & CLONE_NEWPID:
        for _ in range(2):  # init of the namespace, which no code of the artifact runs in; then the box itself
            child = os.fork()
            if child:
                _guard(child, options["close"])
            _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    layers["own /proc"] = _own_proc(got)
    # Counted per user and user namespace, so only there does it count the box alone.
    processes = _limit("RLIMIT_NPROC", MAX_PROCESSES, "processes and threads")
    layers["limit on processes"] = processes if got & CLONE_NEWUSER else (False, "needs a user namespace of its own")
    if options["memory_bytes"] is None:
        layers["limit on memory"] = grouped, group_note
    else:
        active, note = _limit("RLIMIT_DATA", options["memory_bytes"], "bytes of private memory")
        layers["limit on memory"] = active, f"{note}; {group_note}" if grouped else note
    layers["no new privileges"] = _prctl(PR_SET_NO_NEW_PRIVS, 1)
    layers["Landlock: files"] = _landlock(options)
    filtered = _seccomp(options["processes"])
    layers["seccomp: system calls"] = filtered
    none = filtered[0] and not options["processes"]
    if not options["processes"]:
        layers["no new processes"] = none, "threads only" if none else filtered[1]
    if root:  # the kernel does not hold RLIMIT_NPROC against root
        layers["limit on processes"] = (
            none,
            ("no new processes, and threads end at the limit on memory" if none else "root is above it"),
        )
    if grouped and not layers["limit on processes"][0]:
        layers["limit on processes"] = True, f"{MAX_PROCESSES:,} processes and threads in its control group"
    return [
        (name, active, note if active else f"{note}: {OPEN[name]}" if note else OPEN[name])
        for name, (active, note) in layers.items()
    ]


def _libc():
    return ctypes.CDLL(None, use_errno=True)


def _read(path):
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _error():
    return f"the kernel refuses ({os.strerror(ctypes.get_errno())})"


def _namespaces():
    """Own namespaces, as many as the kernel grants at once. Returns (their flags, reason if some are missing)."""
    if sys.platform != "linux":
        return 0, f"not available on {sys.platform}"
    user, group = os.getuid(), os.getgid()
    own, reason = CLONE_NEWNET | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC, ""
    for flags in (CLONE_NEWUSER | own, own, CLONE_NEWUSER | CLONE_NEWNET, CLONE_NEWNET):
        if _libc().unshare(flags) == 0:
            if flags & CLONE_NEWUSER:
                _map_identity(user, group)
            return flags, reason
        reason = _error()
    return 0, reason


def _map_identity(user, group):
    """Keep the own ids in the new user namespace, so that files look as they did (user_namespaces(7))."""
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        try:
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
        except OSError:
            pass  # ids then read as "nobody", access is the same


def _guard(child, close):
    """Wait for `child`, collecting orphans, and end as it ended."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)  # init of a namespace takes no signal from inside without a handler
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2, *close):
        os.dup2(null, descriptor)  # so that the scorer sees the end of a pipe when the box itself has gone
    while True:
        pid, status = os.wait()
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)


def _own_proc(got):
    if not got & CLONE_NEWPID:
        return False, "needs a process namespace"
    libc, private = _libc(), 0x40000 | 0x4000  # MS_PRIVATE, MS_REC
    if libc.mount(b"none", b"/", None, ctypes.c_ulong(private), None) or libc.mount(
        b"proc", b"/proc", b"proc", ctypes.c_ulong(2 | 4 | 8), None
    ):  # nosuid, nodev, noexec
        return False, _error()
    return True, ""


def _join(group):
    """Enter the control group that the scorer made, if there is one."""
    if group is None:
        return False, "with CUDA it needs a control group (v2) that the scorer may make"
    try:
        with open(os.path.join(group, "cgroup.procs"), "w", encoding="ascii") as file:
            file.write("0")  # the writer itself (cgroups(7))
    except OSError as error:
        return False, f"its control group cannot be joined ({error.strerror})"
    return True, f"control group of {_read(os.path.join(group, 'memory.max')).strip()} bytes"


def _prctl(option, value):
    if sys.platform != "linux":
        return False, f"not available on {sys.platform}"
    if _libc().prctl(option, ctypes.c_ulong(int(value)), 0, 0, 0) != 0:
        return False, _error()
    return True, ""


def _limit(name, value, unit):
    which = getattr(resource, name)
    hard = resource.getrlimit(which)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    try:
        resource.setrlimit(which, (value, value))
    except (OSError, ValueError) as error:
        return False, str(error)
    return True, f"{value:,} {unit}"


def _landlock(options):
    """Only what a model needs can be read, only the working directory can be written. Landlock(7)."""
    if sys.platform != "linux":
        return False, f"not available on {sys.platform}"
    libc = _libc()
    version = libc.syscall(LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    if version < 1:
        return False, _error()
    rights = RIGHTS[max(number for number in RIGHTS if number <= version)]
    # In order: file rights; from version 4 TCP bind and connect; from version 6 abstract sockets and signals.
    words = [rights, *[3][: version >= 4], *[3][: version >= 6]]
    ruleset = libc.syscall(
        LANDLOCK_CREATE_RULESET,
        struct.pack(f"<{len(words)}Q", *words),
        ctypes.c_size_t(8 * len(words)),
        ctypes.c_uint32(0),
    )
    if ruleset < 0:
        return False, _error()
    try:
        for path, access in _rules(options):
            _allow(libc, ruleset, path, access & rights)
        if libc.syscall(LANDLOCK_RESTRICT_SELF, ruleset, ctypes.c_uint32(0)) != 0:
            return False, _error()
    finally:
        os.close(ruleset)
    return True, f"version {version}: libraries and the box's directory"


def _rules(options):
    """(path, rights) of all that may be used; a path that does not exist is skipped."""
    work = os.getcwd()
    yield work, ~(MAKE_CHAR | MAKE_BLOCK | MAKE_SOCK | IOCTL_DEV)
    yield os.path.dirname(work), READ_FILE | READ_DIR
    yield "/dev/null", READ_FILE | WRITE_FILE | TRUNCATE
    # Its own folder, so with the old /proc too; not those of others.
    yield os.path.realpath("/proc/self"), READ_FILE | READ_DIR | WRITE_FILE
    for path in readable_roots(options["packages"]):
        yield path, READ
    for folder in {os.path.dirname(path) for path in options["packages"]}:
        yield folder, READ_DIR  # the import system lists it; the files in it stay closed
    if options["processes"]:
        for path in GPU:
            yield path, READ
        for name in os.listdir("/dev"):
            if name.startswith("nvidia"):
                yield f"/dev/{name}", READ | WRITE_FILE | IOCTL_DEV


def readable_roots(packages):
    """Files and folders that a model may read: the interpreter, the standard library, system libraries, `packages`."""
    folders = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), "/usr/lib", "/usr/local/lib", "/lib"}
    roots = [
        *SYSTEM,
        *packages,
        os.path.join(sys.prefix, "bin"),
        os.path.join(sys.prefix, "pyvenv.cfg"),
        os.path.join(sys.base_prefix, "bin"),
    ]
    for folder in map(os.path.realpath, folders):
        is_stdlib = os.path.exists(os.path.join(folder, "os.py"))
        for name in os.listdir(folder) if os.path.isdir(folder) else ():
            if name not in ("site-packages", "dist-packages") and (is_stdlib or not name.startswith("python")):
                roots.append(os.path.join(folder, name))
    return roots


def _allow(libc, ruleset, path, access):
    try:
        descriptor = os.open(path, O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    if not os.path.isdir(path):
        access &= FILE_RIGHTS
    rule = struct.pack("<Qi", access, descriptor)
    libc.syscall(LANDLOCK_ADD_RULE, ruleset, ctypes.c_int(1), rule, ctypes.c_uint32(0))
    os.close(descriptor)


def _seccomp(processes):
    """A filter over system calls, for every thread from here on. seccomp(2)."""
    if sys.platform != "linux" or platform.machine() not in MACHINES:
        return False, f"not written for {sys.platform} on {platform.machine()}"
    program = filter_program(platform.machine(), processes)
    buffer = ctypes.create_string_buffer(program)
    argument = struct.pack("<H6xQ", len(program) // 8, ctypes.addressof(buffer))  # struct sock_fprog
    if _libc().prctl(PR_SET_SECCOMP, ctypes.c_ulong(2), argument, 0, 0) != 0:
        return False, _error()
    return True, f"{len(DENIED)} calls refused"


def filter_program(machine, processes):
    """The filter in classic BPF: refuse DENIED, new namespaces, taking back the tie to the scorer's life, and new
    processes unless `processes`."""
    column, arch = MACHINES[machine]
    refuse, missing, allow, end = 0x00050000 | 1, 0x00050000 | 38, 0x7FFF0000, 0x80000000  # EPERM, ENOSYS, -, kill
    code = []

    def load(offset):
        code.append(struct.pack("<HBBI", 0x20, 0, 0, offset))

    def unless(operation, value, skip):
        """If the comparison holds go on, else skip `skip` instructions."""
        code.append(struct.pack("<HBBI", operation, 0, skip, value))

    def answer(value):
        code.append(struct.pack("<HBBI", 0x06, 0, 0, value))

    equal, set_bits, at_least = 0x15, 0x45, 0x35
    load(4)  # seccomp_data.arch: the numbers of another architecture mean other calls
    code.append(struct.pack("<HBBI", equal, 1, 0, arch))
    answer(end)
    load(0)
    if machine == "x86_64":  # the x32 calls
        unless(at_least, 0x40000000, 1)
        answer(refuse)
    for numbers in DENIED.values():
        unless(equal, numbers[column], 1)
        answer(refuse)
    unless(equal, CLONE3[column], 1)  # its flags lie in memory, out of a filter's sight: glibc then takes clone
    answer(missing)
    if not processes:
        for numbers in (FORK, VFORK):
            if numbers[column] is not None:
                unless(equal, numbers[column], 1)
                answer(refuse)
    namespaces = (
        CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWCGROUP | CLONE_NEWUTS
    )
    unless(equal, CLONE[column], 6)
    load(16)  # first argument, low half
    unless(set_bits, namespaces, 1)
    answer(refuse)
    unless(set_bits, 0xFFFFFFFF if processes else CLONE_THREAD, 1)
    answer(allow)
    answer(refuse)
    unless(equal, PRCTL[column], 3)
    load(16)
    unless(equal, PR_SET_PDEATHSIG, 1)
    answer(refuse)
    answer(allow)
    return b"".join(code)


class Watch:
    """Keeps to the allow-list of imports and notes which files are opened. Python's own hooks: code in C passes by, so
    this is a log and a courtesy; Landlock is the wall."""

    LIMIT = 50

    def __init__(self, names, packages):
        self.names = {*names, *sys.stdlib_module_names, *sys.builtin_module_names}
        self.work = os.getcwd() + os.sep
        home = os.path.dirname(os.getcwd())
        roots = [os.path.realpath(path) for path in (home, *readable_roots(packages), os.devnull)]
        self.roots, self.folders = set(roots), tuple(root + os.sep for root in roots)
        self.files = {}

    def limit_imports(self):
        """Before torch: it tries packages that are not on the list, and copes with a missing one, not a closed one."""
        sys.meta_path[sys.meta_path.index(PathFinder)] = self

    def log_files(self):
        """From now on, for the life of the process."""
        sys.addaudithook(self._note)

    def find_spec(self, name, path=None, target=None):
        """The import system's question; names that are neither allowed nor in the box's directory do not exist."""
        top = name.partition(".")[0]
        own = any(os.path.exists(os.path.join(self.work, top + end)) for end in ("", ".py", ".so"))
        return PathFinder.find_spec(name, path, target) if own or top in self.names else None

    def _note(self, event, arguments):
        if event == "open" and isinstance(arguments[0], (str, bytes)) and len(self.files) < self.LIMIT:
            path = os.path.realpath(os.fsdecode(arguments[0]))
            if path not in self.roots and not path.startswith(self.folders):
                self.files[path] = None
