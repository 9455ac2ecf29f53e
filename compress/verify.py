"""Checks an artifact from its bytes alone, in a fresh process: scripts import, weights decode, the model takes them.

NOT a security boundary: it runs the artifact's own code with your rights. Files you do not trust belong in the
scorer's box.
Not covered: the score, and whether it keeps to any rule but its format.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from golf import tokenizer_section
from golf.container import code_unpack, config_unpack, read

TIMEOUT_SECONDS = 600

# Runs as `python -I -c` in a folder that holds the unpacked files. Prints one JSON line.
CHILD = """
import hashlib, json, os, platform, sys
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
sys.path.insert(0, os.getcwd())
stage = "importing its libraries"
try:
    import brotli, numpy, torch
    stage = "importing decode.py"
    import decode
    stage = "decoding the weights"
    with open("weights.bin", "rb") as file:
        weights = decode.decode_weights(file.read())
    if sys.argv[1:] == ["save"]:
        torch.save(weights, "weights.pt")
        print("{}")
        sys.exit()
    hashes = {name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in weights.items()}
    shapes = {name: [str(tensor.dtype), *tensor.shape] for name, tensor in weights.items()}
    stage = "importing train_gpt.py"
    import train_gpt
    stage = "building the model"
    with open("config.json", encoding="utf-8") as file:
        model = train_gpt.build_model(train_gpt.Config(**json.load(file)))
    stage = "loading the weights into the model"
    model.load_state_dict(weights, strict=True)
    result = {"hashes": hashes, "shapes": shapes, "versions": {
        "python": platform.python_version(), "torch": torch.__version__, "numpy": numpy.__version__,
        "brotli": brotli.__version__, "machine": platform.platform()}}
except Exception as error:
    result = {"error": f"{stage}: {type(error).__name__}: {' '.join(str(error).split())[:300]}"}
print("\\n" + json.dumps(result))
"""


def unpack_into(data: bytes, folder: Path) -> None:
    """Writes what the scorer hands to an artifact: train_gpt.py, decode.py, config.json, tokenizer.model, weights.bin.

    Raises ValueError if a section is malformed.
    """
    sections = read(data)
    train_source, decode_source = code_unpack(sections["CODE"])
    files = {
        "train_gpt.py": train_source.encode(),
        "decode.py": decode_source.encode(),
        "config.json": json.dumps(config_unpack(sections["CONF"]), ensure_ascii=False).encode(),
        "tokenizer.model": tokenizer_section.rebuild(sections["TOKN"]),
        "weights.bin": sections["WGTS"],
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)


def verify(data: bytes) -> dict:
    """{"hashes": {tensor: sha256 of its bytes}, "shapes": {tensor: [dtype, *shape]}, "versions": {...}} of an artifact.

    Raises ValueError with the stage that failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        unpack_into(data, Path(folder))
        return _run_child(folder)


def save_weights(folder: Path) -> None:
    """Decodes weights.bin in an unpacked folder with the artifact's own decoder, to weights.pt. Raises ValueError."""
    _run_child(folder, "save")


def _run_child(folder: str | Path, *arguments: str) -> dict:
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", CHILD, *arguments],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"decoding took more than {TIMEOUT_SECONDS} s") from None
    try:
        result = json.loads(done.stdout.decode(errors="replace").splitlines()[-1])
    except (IndexError, ValueError):
        raise ValueError(f"the fresh process ended with exit status {done.returncode} and no result") from None
    if "error" in result:
        raise ValueError(result["error"])
    return result


def compare(result: dict, tensors: dict[str, torch.Tensor]) -> None:
    """Raises ValueError naming a tensor unless `verify` gave exactly these, bit for bit."""
    for name in sorted(result["hashes"].keys() | tensors.keys()):
        if name not in result["hashes"] or name not in tensors:
            raise ValueError(f"{name} is {'missing from' if name in tensors else 'unexpected in'} the decoded file")
        tensor = tensors[name]
        same_shape = result["shapes"][name] == [str(tensor.dtype), *tensor.shape]
        if not same_shape or result["hashes"][name] != hashlib.sha256(tensor.numpy().tobytes()).hexdigest():
            raise ValueError(f"{name} decodes to other values than were packed")
