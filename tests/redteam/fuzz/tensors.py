"""Mutated files of torch: values of the wrong type, tensors of every odd kind, entries of the archive that are damaged,
swapped, compressed or gone.

Not covered: pickles that run code, which torch's weights-only loader refuses (tests/compress/test_checkpoint.py).
"""

import collections
import contextlib
import copy
import io
import pickle
import random
import warnings
import zipfile

import torch

from tests.support.mutations import damaged, places

PLAIN = (
    None,
    True,
    0,
    1,
    -1,
    2**70,
    10**5000,
    0.5,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "x" * 100_000,
    "\x1b[2J\n",
    "\ud800",
    "embedding",
    b"x",
    [],
    [1, [2]],
    {},
    {1: 2},
    {"a": {"b": []}},
    (),
    ("a",),
    collections.OrderedDict(a=1),
    torch.float32,
    torch.device("cpu"),
    torch.Size((3,)),
)
KEYS = ("", "x", 3, ("a",), None, "format", "\x1b[31m", "k" * 10_000, "a\nb", "\ud800", True)
ODD_TENSORS = (
    lambda: torch.tensor(3.0),
    lambda: torch.zeros(0),
    lambda: torch.zeros(0, 5),
    lambda: torch.zeros(5, 0),
    lambda: torch.ones(1).expand(1 << 30),
    lambda: torch.ones(1, 1).expand(1 << 15, 1 << 15),
    lambda: torch.zeros(1, dtype=torch.uint8).expand(1 << 40),
    lambda: torch.ones((1,) * 9),
    lambda: torch.ones(20, 20, dtype=torch.int64),
    lambda: torch.ones(20, 20, dtype=torch.bool),
    lambda: torch.ones(20, 20, dtype=torch.complex64),
    lambda: torch.ones(20, 20, dtype=torch.uint16),
    lambda: torch.ones(20, 20, device="meta"),
    lambda: torch.eye(20).to_sparse(),
    lambda: torch.eye(20).to_sparse_csr(),
    lambda: torch.quantize_per_tensor(torch.ones(20), 0.1, 0, torch.qint8),
    lambda: torch.full((20, 20), 1e300, dtype=torch.float64),
    lambda: torch.full((20, 20), 1e-45),
    lambda: torch.randn(300, 17),
    lambda: torch.zeros(1000, 1000),
)
# Of a tensor that is there
CHANGES = (
    lambda t: t.double(),
    lambda t: t.half(),
    lambda t: t.bfloat16(),
    lambda t: t.to(torch.float8_e4m3fn),
    lambda t: t.long(),
    lambda t: t.to_sparse(),
    lambda t: t.to("meta"),
    lambda t: t.T if t.ndim == 2 else t.flip(0),
    lambda t: t[:-1],
    lambda t: t[..., :1],
    lambda t: t[None],
    lambda t: t.flatten(),
    lambda t: t.expand(7, *t.shape),
    lambda t: t.sum(),
    lambda t: -t,
    lambda t: 0 * t,
    lambda t: t * 1e30,
    lambda t: t.double() * 1e-300,
    lambda t: t.double() * 1e300,
    lambda t: t / t.abs().max() * 3e38,
    lambda t: torch.full_like(t, float("nan")),
    lambda t: torch.where(torch.rand(t.shape) < 0.01, float("inf"), t),
    lambda t: torch.where(torch.rand(t.shape) < 0.01, 1e30, t),
    lambda t: torch.randn(t.shape),
    lambda t: torch.nn.Parameter(t),
)


def mutate(rng: random.Random, sound: bytes, edit=lambda rng, value: None) -> bytes:
    """The bytes of a file of torch made of a sound one. edit(rng, value): mutations of the kind's own, in place."""
    choice = rng.randrange(10)
    if choice == 0:
        return damaged(rng, sound)
    if choice == 1:
        return rearranged(rng, sound)
    torch.manual_seed(rng.randrange(1 << 30))
    value = torch.load(io.BytesIO(sound), weights_only=True)
    if choice == 2:
        edit(rng, value)
    else:
        with contextlib.suppress(NotImplementedError):  # torch copies not all of these
            for _ in range(rng.choice((1, 1, 1, 2, 4))):
                value = changed(rng, value)
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            torch.save(value, out, _use_new_zipfile_serialization=rng.random() < 0.97)
        except (RuntimeError, TypeError, ValueError, NotImplementedError):  # torch cannot write all of these
            return damaged(rng, sound)
    return out.getvalue()


def changed(rng: random.Random, value: object) -> object:
    """`value`, changed in place somewhere: another value, a key more, less or renamed, two values swapped."""
    path = rng.choice(places(value))
    if not path:
        return rng.choice(PLAIN) if rng.random() < 0.2 else value
    parent = value
    for step in path[:-1]:
        parent = parent[step]
    last, old = path[-1], parent[path[-1]]
    action = rng.choice(("odd", "odd", "odd", "tensor", "tensor", "remove", "add", "rename", "swap", "wrap"))
    if action == "tensor":
        parent[last] = rng.choice(ODD_TENSORS)()
    elif action == "remove":
        del parent[last]
    elif action == "swap":
        other = rng.choice(places(value)[1:])
        there = value
        for step in other[:-1]:
            there = there[step]
        parent[last], there[other[-1]] = copy.deepcopy(there[other[-1]]), copy.deepcopy(old)
    elif action == "wrap":
        parent[last] = rng.choice(([old], {"a": old}, (old,)))
    elif action in ("add", "rename") and isinstance(parent, dict):
        parent[rng.choice(KEYS)] = rng.choice(PLAIN) if action == "add" else parent.pop(last)
    elif isinstance(old, torch.Tensor) and rng.random() < 0.8:
        try:
            parent[last] = rng.choice(CHANGES)(old)
        except (RuntimeError, IndexError, TypeError, NotImplementedError):  # not of this shape
            parent[last] = rng.choice(PLAIN)
    else:
        parent[last] = copy.deepcopy(rng.choice(PLAIN))
    return value


def rearranged(rng: random.Random, sound: bytes) -> bytes:
    """The archive with its entries damaged (their checksums are right), swapped, compressed, doubled or gone."""
    with zipfile.ZipFile(io.BytesIO(sound)) as archive:
        entries = [(name, archive.read(name)) for name in archive.namelist()]
    at = rng.randrange(len(entries))
    pickled = next(place for place, (name, _) in enumerate(entries) if name.endswith("data.pkl"))
    action = rng.randrange(8)
    if action < 3:
        name, data = entries[pickled]
        entries[pickled] = name, damaged(rng, data)
    elif action == 3:
        name, data = entries[at]
        entries[at] = name, damaged(rng, data)
    elif action == 4:
        other = rng.randrange(len(entries))
        (one, first), (two, second) = entries[at], entries[other]
        entries[at], entries[other] = (one, second), (two, first)
    elif action == 5:
        del entries[at]
    elif action == 6:
        name, data = entries[pickled]
        odd = {"format": 1, "model": list(range(rng.choice((0, 10, 100_000))))}
        entries[pickled] = name, pickle.dumps(odd, protocol=rng.choice((0, 2, 4)))
    out = io.BytesIO()
    packed = zipfile.ZIP_DEFLATED if action == 7 else zipfile.ZIP_STORED
    with zipfile.ZipFile(out, "w", packed) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return out.getvalue()
