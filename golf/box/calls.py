"""The filter of system calls: seccomp in classic BPF. Runs in the box: standard library only.

On x86-64, without processes, it is an allow-list: what Python, numpy and torch use, recorded over the tests and the
records' artifacts. Calls that are needed, but not for everything, have their arguments checked. What is refused by name
answers EPERM, all else ENOSYS, which the C library takes as "an older kernel".

What it closes: the kernel's own memory that two boxes could share whatever they see of files: extended attributes,
modes and times; locks; whether a page of a file is in memory (mincore, cachestat, RWF_NOWAIT, advice on files); System
V and POSIX objects, keyrings, inotify, io_uring, futexes in files; counters that one box moves and another reads: the
numbers of pipes and of anonymous shared memory (st_ino counts on for the whole machine), load and free memory
(sysinfo), free space (statfs), pages that are locked in memory or huge, queued signals; the priorities and cores of
others.

What it leaves open: how long the allowed calls and plain reading and computing take. On arm64, and with processes (on a
GPU), the calls are not recorded: there only the calls of DENIED are refused, and the table of layers says so.
"""

import ctypes
import os
import platform
import struct
import sys

from golf.box.kernel import error, libc
from golf.children import PR_SET_PDEATHSIG

CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER = 0x20000, 0x08000000, 0x10000000  # linux/sched.h
CLONE_NEWPID, CLONE_NEWNET, CLONE_NEWCGROUP = 0x20000000, 0x40000000, 0x02000000
CLONE_THREAD, CLONE_NEWUTS = 0x10000, 0x04000000
THREAD_FLAGS = 0x3D0F00 | 0x400000  # VM, FS, FILES, SIGHAND, THREAD, ...: of a thread as glibc and musl start one
NAMESPACES = CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWCGROUP | CLONE_NEWUTS
PR_SET_SECCOMP, PR_SET_NAME, PR_GET_NAME, PR_SET_VMA = 22, 15, 16, 0x53564D41  # linux/prctl.h
SECCOMP_MODE_FILTER = 2
EAGAIN = 0x00050000 | 11  # an answer: SECCOMP_RET_ERRNO and the error (linux/seccomp.h)
O_DIRECT = 0o40000  # asm-generic/fcntl.h, as on x86-64
FUTEX_PRIVATE_FLAG = 128  # linux/futex.h
MAP_SHARED, MAP_ANONYMOUS, MAP_LOCKED, MAP_HUGETLB = 1, 0x20, 0x2000, 0x40000  # linux/mman.h

# Refused everywhere: other processes' memory, new privileges, objects and attributes of the whole machine, the kernel's
# rarely used corners. Numbers of x86-64 and arm64 (asm/unistd_64.h, asm-generic/unistd.h).
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
    "fanotify_mark": (301, 263),
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
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "shmdt": (67, 197),
    "msgget": (68, 186),
    "msgsnd": (69, 189),
    "msgrcv": (70, 188),
    "msgctl": (71, 187),
    "semget": (64, 190),
    "semop": (65, 193),
    "semctl": (66, 191),
    "semtimedop": (220, 192),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    "mq_timedsend": (242, 182),
    "mq_timedreceive": (243, 183),
    "mq_notify": (244, 184),
    "mq_getsetattr": (245, 185),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "getxattr": (191, 8),
    "lgetxattr": (192, 9),
    "fgetxattr": (193, 10),
    "listxattr": (194, 11),
    "llistxattr": (195, 12),
    "flistxattr": (196, 13),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "setxattrat": (463, 463),
    "getxattrat": (464, 464),
    "listxattrat": (465, 465),
    "removexattrat": (466, 466),
    "mincore": (27, 232),
    "cachestat": (451, 451),
    "fadvise64": (221, 223),
    "preadv2": (327, 286),
    "pwritev2": (328, 287),
    "readahead": (187, 213),
    "inotify_init1": (294, 26),
    "inotify_add_watch": (254, 27),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "statmount": (457, 457),
    "listmount": (458, 458),
    "memfd_secret": (447, 447),
    "io_setup": (206, 0),
    "io_submit": (209, 2),
}
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, AUDIT_ARCH (linux/audit.h)
CLONE, CLONE3, PRCTL = (56, 220), (435, 435), (157, 167)
FORKS: tuple[tuple[int, int | None], ...] = ((57, None), (58, None))  # fork, vfork: arm64 has neither

# x86-64: what something honest tries, and does without if it is refused.
REFUSED = {
    "chmod": 90,
    "fchmod": 91,
    "fchmodat": 268,
    "fchmodat2": 452,
    "chown": 92,
    "fchown": 93,
    "lchown": 94,
    "fchownat": 260,
    "utime": 132,
    "utimes": 235,
    "futimesat": 261,
    "utimensat": 280,
    "flock": 73,
    "pipe": 22,
    "pipe2": 293,
    "memfd_create": 319,
    "eventfd": 284,
    "eventfd2": 290,
    "signalfd4": 289,
    "timerfd_create": 283,
    "epoll_create": 213,
    "epoll_create1": 291,
    "socketpair": 53,
    "sysinfo": 99,
    "statfs": 137,
    "fstatfs": 138,
    "sched_setaffinity": 203,
    "sched_setscheduler": 144,
    "sched_setparam": 142,
    "sched_setattr": 314,
    "setpriority": 141,
    "ioprio_set": 251,
    "mlock": 149,
    "mlock2": 325,
    "mlockall": 151,
    "mbind": 237,
    "set_mempolicy": 238,
    "get_mempolicy": 239,
    "execve": 59,
    "execveat": 322,
    "fork": 57,
    "vfork": 58,
    "sync": 162,
    "fsync": 74,
    "fdatasync": 75,
    "msync": 26,
    "timer_create": 222,
    "rt_sigqueueinfo": 129,
    "membarrier": 324,
    "mknod": 133,
    "mknodat": 259,
    "setuid": 105,
    "setgid": 106,
    "capset": 126,
    "inotify_init": 253,
}

# x86-64: seen while the tests and the records' artifacts ran; allowed whatever the arguments are.
RECORDED = {
    "read": 0,
    "write": 1,
    "close": 3,
    "lseek": 8,
    "mprotect": 10,
    "munmap": 11,
    "brk": 12,
    "rt_sigaction": 13,
    "rt_sigprocmask": 14,
    "rt_sigreturn": 15,
    "pread64": 17,
    "sched_yield": 24,
    "mremap": 25,
    "getpid": 39,
    "exit": 60,
    "uname": 63,
    "fstat": 5,
    "ftruncate": 77,
    "getdents64": 217,
    "getcwd": 79,
    "rename": 82,
    "mkdir": 83,
    "unlink": 87,
    "getuid": 102,
    "gettid": 186,
    "clock_nanosleep": 230,
    "exit_group": 231,
    "newfstatat": 262,
    "set_robust_list": 273,
    "getrandom": 318,
    "rseq": 334,
}

# x86-64: the same work with other arguments, or under another version of Python and the C library: files of the work
# folder, waiting, time, the own process.
RELATED = {
    "stat": 4,
    "lstat": 6,
    "poll": 7,
    "pwrite64": 18,
    "readv": 19,
    "writev": 20,
    "access": 21,
    "select": 23,
    "dup": 32,
    "dup2": 33,
    "nanosleep": 35,
    "truncate": 76,
    "chdir": 80,
    "rmdir": 84,
    "link": 86,
    "symlink": 88,
    "readlink": 89,
    "umask": 95,
    "gettimeofday": 96,
    "getrlimit": 97,
    "getrusage": 98,
    "times": 100,
    "getgid": 104,
    "geteuid": 107,
    "getegid": 108,
    "getppid": 110,
    "sigaltstack": 131,
    "time": 201,
    "restart_syscall": 219,
    "clock_gettime": 228,
    "clock_getres": 229,
    "mkdirat": 258,
    "unlinkat": 263,
    "renameat": 264,
    "linkat": 265,
    "symlinkat": 266,
    "readlinkat": 267,
    "faccessat": 269,
    "pselect6": 270,
    "ppoll": 271,
    "dup3": 292,
    "preadv": 295,
    "pwritev": 296,
    "getcpu": 309,
    "renameat2": 316,
    "statx": 332,
    "close_range": 436,
    "faccessat2": 439,
}
ALLOWED = RECORDED | RELATED


class OneOf:
    """A check: the argument `index` is one of `values`; "own" stands for this process."""

    def __init__(self, index, *values):
        self.index, self.values = index, values


class With:
    """A check: the bits of `mask` are set in argument `index`; else the call answers `otherwise`."""

    def __init__(self, index, mask, otherwise):
        self.index, self.mask, self.otherwise = index, mask, otherwise


class Without:
    """A check: not all bits of `mask` are set in argument `index`."""

    def __init__(self, index, mask):
        self.index, self.mask = index, mask


# x86-64: allowed if every check of the arguments holds.
CHECKED = {
    # One that is not private is found by the file and the place in it, a library's too, by all boxes: a box could count
    # the waiting threads of another. Told to try again, a thread that waits for the end of another one asks until it
    # has ended; all else that waits is private.
    "futex": (202, [With(1, FUTEX_PRIVATE_FLAG, EAGAIN)]),
    "open": (2, [Without(1, O_DIRECT)]),
    "openat": (257, [Without(2, O_DIRECT)]),
    # An anonymous shared mapping takes a number that counts for the whole machine; locked and huge pages are few.
    "mmap": (9, [Without(3, MAP_SHARED | MAP_ANONYMOUS), Without(3, MAP_LOCKED), Without(3, MAP_HUGETLB)]),
    "madvise": (28, [OneOf(2, 4, 8)]),  # DONTNEED, FREE: own memory; not those that fetch, drop or join pages of files
    "ioctl": (16, [OneOf(1, 0x5401, 0x5450, 0x5451)]),  # TCGETS (is it a terminal?), FIONCLEX, FIOCLEX
    "fcntl": (72, [OneOf(1, 0, 1, 2, 3, 4, 1030)]),  # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC
    "prctl": (157, [OneOf(0, PR_SET_NAME, PR_GET_NAME, PR_SET_VMA)]),
    "arch_prctl": (158, [OneOf(0, 0x1021, 0x1022, 0x1023)]),  # ARCH_GET_XCOMP_SUPP, _PERM, ARCH_REQ_XCOMP_PERM: AMX
    "prlimit64": (302, [OneOf(0, 0, "own")]),
    "sched_getaffinity": (204, [OneOf(0, 0, "own")]),
    "kill": (62, [OneOf(0, "own")]),
    "tgkill": (234, [OneOf(0, "own")]),
}


def restrict(processes):
    """Put the filter on this thread and all that it starts from here on. Returns [(active, note)] of two layers: calls
    that are refused by name; calls that are allowed by name. seccomp(2)."""
    if sys.platform != "linux" or platform.machine() not in MACHINES:
        missing = False, f"not written for {sys.platform} on {platform.machine()}"
        return [missing, missing]
    program = filter_program(platform.machine(), processes, os.getpid())
    buffer = ctypes.create_string_buffer(program)
    argument = struct.pack("<H6xQ", len(program) // 8, ctypes.addressof(buffer))  # struct sock_fprog
    if libc().prctl(PR_SET_SECCOMP, ctypes.c_ulong(SECCOMP_MODE_FILTER), argument, 0, 0) != 0:
        return [(False, error())] * 2
    if is_recorded(platform.machine(), processes):
        allowed = True, f"{len(ALLOWED):,} calls, and {len(CHECKED) + 1} more by their arguments"
    else:
        what = "with a GPU" if processes else f"on {platform.machine()}"
        allowed = False, f"the calls that torch needs are not recorded {what}"
    return [(True, f"{len(DENIED)} calls refused"), allowed]


def is_recorded(machine, processes):
    """Whether the filter is an allow-list."""
    return machine == "x86_64" and not processes


class Program:
    """Instructions of classic BPF for a filter of system calls (linux/filter.h, linux/seccomp.h)."""

    ALLOW, KILL, REFUSE, MISSING = 0x7FFF0000, 0x80000000, 0x00050000 | 1, 0x00050000 | 38  # EPERM, ENOSYS
    EQUAL, AT_LEAST, ANY_BIT = 0x15, 0x35, 0x45
    NUMBER, ARCH, ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data

    def __init__(self):
        self.code = []

    def load(self, offset):
        """The word at `offset` of the call's data; of an argument (8 bytes each) the lower half."""
        self._add(0x20, 0, 0, offset)

    def keep_bits(self, mask):
        """Of the loaded word, only these bits."""
        self._add(0x54, 0, 0, mask)

    def answer(self, value):
        """End with this answer."""
        self._add(0x06, 0, 0, value)

    def when(self, operation, value, body):
        """`body` (a Program) if the comparison holds."""
        if body.length > 255:
            raise ValueError("a jump of classic BPF passes at most 255 instructions")
        self._add(operation, 0, body.length, value)
        self.code += body.code

    def when_answer(self, operation, value, answer):
        """End with this answer if the comparison holds."""
        body = Program()
        body.answer(answer)
        self.when(operation, value, body)

    def unless_answer(self, value, answer):
        """End with this answer if the loaded word is not `value`."""
        self._add(Program.EQUAL, 1, 0, value)
        self.answer(answer)

    @property
    def length(self):
        """Number of instructions."""
        return len(self.code)

    def _add(self, *fields):
        self.code.append(struct.pack("<HBBI", *fields))


def filter_program(machine, processes, own=0):
    """The filter as bytes, for a process that sees its own id as `own` and may start others if `processes`."""
    column, arch = MACHINES[machine]
    program = Program()
    program.load(Program.ARCH)  # the numbers of another architecture mean other calls
    program.unless_answer(arch, Program.KILL)
    program.load(Program.NUMBER)
    if machine == "x86_64":  # the x32 calls
        program.when_answer(Program.AT_LEAST, 0x40000000, Program.REFUSE)
    for numbers in DENIED.values():
        program.when_answer(Program.EQUAL, numbers[column], Program.REFUSE)
    # Its flags lie in memory, out of a filter's sight: glibc then takes clone.
    program.when_answer(Program.EQUAL, CLONE3[column], Program.MISSING)
    program.when(Program.EQUAL, CLONE[column], _clone(processes))
    if is_recorded(machine, processes):
        _allow_list(program, own)
        return b"".join(program.code)
    if not processes:
        for fork in FORKS:
            if fork[column] is not None:
                program.when_answer(Program.EQUAL, fork[column], Program.REFUSE)
    life = Program()  # taking back the tie to the scorer's life
    life.load(Program.ARGUMENTS)
    life.when_answer(Program.EQUAL, PR_SET_PDEATHSIG, Program.REFUSE)
    life.answer(Program.ALLOW)
    program.when(Program.EQUAL, PRCTL[column], life)
    program.answer(Program.ALLOW)
    return b"".join(program.code)


def _clone(processes):
    """No new namespaces; threads only, unless `processes`."""
    body = Program()
    body.load(Program.ARGUMENTS)
    body.when_answer(Program.ANY_BIT, NAMESPACES, Program.REFUSE)
    if processes:
        body.answer(Program.ALLOW)
    else:  # nothing but a plain thread: a descriptor of one would have a number that counts for the whole machine
        body.when_answer(Program.ANY_BIT, 0xFFFFFFFF & ~THREAD_FLAGS, Program.REFUSE)
        body.when_answer(Program.ANY_BIT, CLONE_THREAD, Program.ALLOW)
        body.answer(Program.REFUSE)
    return body


def _allow_list(program, own):
    for number in ALLOWED.values():
        program.when_answer(Program.EQUAL, number, Program.ALLOW)
    for number, checks in CHECKED.values():
        program.when(Program.EQUAL, number, _checked(checks, own))
    for number in REFUSED.values():
        program.when_answer(Program.EQUAL, number, Program.REFUSE)
    program.answer(Program.MISSING)


def _checked(checks, own):
    """Allow if all of the checks hold, else refuse."""
    body = Program()
    for check in checks:
        body.load(Program.ARGUMENTS + 8 * check.index)
        if isinstance(check, With):
            body.keep_bits(check.mask)
            body.unless_answer(check.mask, check.otherwise)
        elif isinstance(check, Without):
            body.keep_bits(check.mask)
            body.when_answer(Program.EQUAL, check.mask, Program.REFUSE)
        else:  # the last check of its call
            for value in check.values:
                body.when_answer(Program.EQUAL, own if value == "own" else value, Program.ALLOW)
            body.answer(Program.REFUSE)
    body.answer(Program.ALLOW)
    return body
