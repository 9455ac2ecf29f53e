"""How fast one box can tell another that runs beside it something by timing alone: python -m tests.support.box_timing

The channel is flush+reload (Yarom and Falkner, USENIX Security 2014): both boxes see one page of a library; one reads a
byte of it or does not, the other measures how long its own read takes. No layer can close it as long as boxes share
processors; docs/audits.md says why it gains nothing. Needs x86-64 and a C compiler, which makes the library that the
boxes load.

Not covered: other channels through the hardware (execution units, memory bus, clock rate), which are slower.
"""

import json
import math
import subprocess
import tempfile
import time
from pathlib import Path

from golf.box import box
from scoring import passes

BITS = 4_000
SLOTS_NS = (2_000, 5_000, 10_000, 20_000, 50_000, 100_000)  # time of one bit

NATIVE = r"""
#include <stdint.h>
#include <time.h>

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static uint64_t reload(volatile char *place) {
    uint32_t low, high, low2, high2, processor;
    __asm__ volatile("mfence\n lfence\n rdtsc" : "=a"(low), "=d"(high)::"memory");
    (void)*place;
    __asm__ volatile("lfence\n rdtscp" : "=a"(low2), "=d"(high2), "=c"(processor)::"memory");
    __asm__ volatile("clflush (%0)\n mfence" ::"r"(place) : "memory");
    return (((uint64_t)high2 << 32) | low2) - (((uint64_t)high << 32) | low);
}

uint64_t typical(volatile char *place, int flushed) { /* cycles of a read: the least of many */
    uint64_t least = ~0ull;
    for (int i = 0; i < 10000; i++) {
        reload(place);
        if (!flushed) (void)*place;
        uint64_t found = reload(place);
        if (found < least) least = found;
    }
    return least;
}

void transmit(volatile char *place, const uint8_t *bits, long count, uint64_t start, uint64_t slot) {
    for (long i = 0; i < count; i++) {
        while (now() < start + slot * i);
        while (now() < start + slot * (i + 1))
            if (bits[i]) (void)*place;
    }
}

void receive(volatile char *place, uint16_t *cycles, long count, uint64_t start, uint64_t slot) {
    for (long i = 0; i < count; i++) {
        uint64_t sum = 0, tries = 0;
        while (now() < start + slot * i);
        while (now() < start + slot * (i + 1)) {
            uint64_t found = reload(place);
            sum += found < 1000 ? found : 1000; /* more was no reading but a pause of this process */
            tries++;
            for (int pause = 0; pause < 40; pause++) __asm__ volatile("pause");
        }
        cycles[i] = tries ? sum / tries : 0;
    }
}
"""

SCRIPT = """
import ctypes, json, mmap, random, time
import torch

ROLE, BITS, SLOTS_NS = {role!r}, {bits}, {slots!r}
native = None

class Config:
    pass

def build_model(config):
    return torch.nn.Identity()

def share_wrong(bits, cycles):
    # The threshold comes from a first quarter, in which the bits are known; the share is of the rest.
    known = BITS // 4
    def wrong(threshold, begin, end):
        return sum((cycles[i] < threshold) != bits[i] for i in range(begin, end)) / (end - begin)
    threshold = min(range(20, 1000, 5), key=lambda value: wrong(value, 0, known))
    return wrong(threshold, known, BITS)

class Scorer:
    scope, chunk = "none", 1

    def __init__(self, model, config):
        pass

    def start(self, lanes):
        path = torch.__file__.replace("__init__.py", "lib/libtorch_cpu.so")
        with open(path, "rb") as file:
            pages = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE)
        place = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(pages)) + (1 << 22))
        for function in (native.transmit, native.receive):
            function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_long] + [ctypes.c_uint64] * 2
        native.typical.restype = ctypes.c_uint64
        near, far = native.typical(place, 0), native.typical(place, 1)
        wrong = []
        for number, slot in enumerate(SLOTS_NS):
            generator = random.Random(number)
            bits = bytes(generator.randrange(2) for _ in range(BITS))
            begin = (time.monotonic_ns() // 10**10 + 1) * 10**10  # both come to the same, without a word
            time.sleep((begin - time.monotonic_ns()) / 1e9 - 0.01)
            if ROLE == "transmit":
                native.transmit(place, bits, BITS, begin, slot)
            else:
                cycles = (ctypes.c_uint16 * BITS)()
                native.receive(place, cycles, BITS, begin, slot)
                wrong.append(share_wrong(bits, list(cycles)))
            time.sleep(0.5)
        print("TIMING " + json.dumps(dict(near=near, far=far, wrong=wrong)), flush=True)

    def logits(self, tokens):
        return torch.zeros(*tokens.shape, 300)

    def observe(self):
        pass
"""
DECODE = """
def decode_weights(payload):
    import ctypes
    import train_gpt
    with open("native.so", "wb") as file:
        file.write(payload)
    train_gpt.native = ctypes.CDLL("./native.so")
    return {}
"""


def capacity(slot_ns, wrong):
    """Bits per second of a channel that turns over a share `wrong` of its bits (Shannon, binary symmetric)."""
    wrong = min(max(wrong, 1e-9), 1 - 1e-9)
    return (1 + wrong * math.log2(wrong) + (1 - wrong) * math.log2(1 - wrong)) * 1e9 / slot_ns


def main():
    """Print the rate for each time of a bit."""
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder) / "native.c", Path(folder) / "native.so"
        source.write_text(NATIVE)
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, source], check=True)
        weights = library.read_bytes()
    running = []
    for role in ("transmit", "receive"):
        script = SCRIPT.format(role=role, bits=BITS, slots=SLOTS_NS)
        running.append(box.Box(box.Submission(script, DECODE, {}, weights, 300), 1, 600, cores=passes.core_numbers()))
    try:
        for one in running:
            one.load()
        for one in running:
            one.start(1)
        while b"TIMING " not in b"".join(running[1]._tail):
            time.sleep(0.1)
            if running[1].process.poll() is not None:
                raise running[1]._died()
        said = json.loads(b"".join(running[1]._tail).decode().partition("TIMING ")[2])
    finally:
        for one in running:
            one.close()
    print(f"a read takes {said['near']} cycles where the page's line is cached, {said['far']} where it was flushed")
    for slot, wrong in zip(SLOTS_NS, said["wrong"], strict=True):
        print(f"{slot / 1000:7,.0f} us a bit: {wrong:6.1%} wrong, {capacity(slot, wrong):10,.0f} bits/s")


if __name__ == "__main__":
    main()
