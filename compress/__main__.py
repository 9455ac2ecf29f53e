"""python -m compress {pack,calibrate,size,code,inspect,unpack,verify,bench}: makes .golf files, and looks into them.

Files may be a stranger's: what they hold is decoded in a child with bounded memory and time (compress/bounded.py), and
code in them runs in the scorer's box alone (compress/verify.py).

Exit status: 0 done; 1 a check failed or the input is bad (one line on stderr says what); 2 wrong usage. With --json the
last line on stdout is one JSON object.
"""

import argparse
import json
import sys
from pathlib import Path

from compress import bounded, report
from compress.sizes import CAP_BYTES, size_report
from golf import container, folders
from golf.console import guarded
from golf.files import Failure, read_bytes, write_atomic
from golf.foreign import terminal, terminal_lines
from golf.progress import Progress


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    try:
        return options.command(options)
    except BrokenPipeError:
        raise
    except (ValueError, OSError, Failure) as error:
        text = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
        if type(error).__name__ == "Misfit":
            print(f"compress {options.name}: {terminal_lines(text)}", file=sys.stderr)
            return 1
        where = str(getattr(options, "file", ""))
        print(f"compress {options.name}: {terminal(text if where in text else f'{where}: {text}')}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"compress {options.name}: interrupted", file=sys.stderr)
        return 130


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m compress", description="Packs training runs into .golf files.")
    commands = parser.add_subparsers(dest="name", required=True, metavar="COMMAND")

    def add(name, function, text):
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(command=function)
        command.add_argument("--json", action="store_true", help="end with one JSON object on stdout")
        return command

    command = add(
        "pack",
        pack,
        "Quantise, code and pack a run so that the file fills its cap; exit 1 and no file if it cannot fit.",
    )
    command.add_argument("run", type=Path, metavar="RUN", nargs="?", help="folder with checkpoint.pt and statistics.pt")
    add_outside(command)
    command.add_argument("--tokenizer", type=Path, metavar="FILE", help="with --script: the tokenizer's .model")
    command.add_argument("--statistics", type=Path, metavar="FILE", help="with --script: what golf calibrate wrote")
    command.add_argument("--out", type=Path, metavar="FILE", help="default: RUN/model.golf; model.golf beside WEIGHTS")
    command.add_argument("--track", choices=CAP_BYTES, help="whose cap applies; default: the checkpoint's")
    command.add_argument(
        "--measure",
        type=Path,
        metavar="DATA_DIR",
        help="then measure the loss of packing on the dev split, with the file's own code in the box",
    )
    command = add(
        "calibrate",
        calibrate,
        "Gather the statistics that packing uses, for a script and weights from outside, in the scorer's box. They are "
        "marked as made outside the clock.",
    )
    add_outside(command, required=True)
    command.add_argument("--data", type=Path, metavar="DIR", required=True, help="folder with train shards")
    command.add_argument("--out", type=Path, metavar="FILE", help="default: statistics.pt beside WEIGHTS")
    command.add_argument(
        "--tokens", type=int, default=65_536, metavar="N", help="that are read, of training text (default: %(default)s)"
    )
    command = add("size", size, "Bytes by section and the headroom; exit 1 if the file is over the cap.")
    command.add_argument("file", type=Path, metavar="FILE")
    command.add_argument("--track", choices=CAP_BYTES, help="default: the smallest cap the file fits under")
    command = add("code", code, "Bytes that a training script takes in an artifact, minified and with the decoder.")
    command.add_argument("file", type=Path, metavar="SCRIPT", nargs="?", default=Path("train_gpt.py"))
    command = add(
        "inspect",
        inspect,
        "Bits per weight, entropy and distance from it, tensor by tensor; of a run also how uneven its sensitivities "
        "are, which is what loss-aware steps can gain.",
    )
    command.add_argument("file", type=Path, metavar="FILE", help="a .golf file, or the folder of a run")
    command.add_argument("--plot", type=Path, metavar="PNG", help="draw steps, and for a packed run its predicted loss")
    command = add(
        "unpack",
        unpack,
        "Write train_gpt.py, decode.py, config.json, tokenizer.model and weights.pt. The file's own decoder and script "
        "run in the scorer's box.",
    )
    command.add_argument("file", type=Path, metavar="FILE")
    command.add_argument("folder", type=Path, metavar="DIR", help="new or empty")
    command = add(
        "verify",
        check,
        "Decode the file and load its model. The file's own code runs in the scorer's box.",
    )
    command.add_argument("file", type=Path, metavar="FILE")
    command.add_argument("--env", action="store_true", help="print the versions it was checked with")
    command = add("bench", bench, "Compare this coder and others on one checkpoint, at equal loss. Takes minutes.")
    command.add_argument("--run", type=Path, metavar="RUN", help="default: the newest finished run in runs/")
    command.add_argument("--data", type=Path, metavar="DIR", default=Path("data/embedded"), help="default: %(default)s")
    command.add_argument("--plot", type=Path, metavar="PNG", help="draw the curves")
    options = parser.parse_args(arguments)
    if options.name == "pack":
        of_script = (options.script, options.weights, options.tokenizer, options.track)
        if options.run is None and None in of_script:
            parser.error("pack: give RUN, or --script, --weights, --tokenizer and --track")
        if options.run is not None and any((*of_script[:3], options.statistics)):
            parser.error("pack: RUN has its own script, weights, tokenizer and statistics: leave out their options")
        if options.run is None and options.measure:
            parser.error("pack: --measure is for a RUN")
    return options


def add_outside(command: argparse.ArgumentParser, required: bool = False) -> None:
    """The options that name what comes from outside."""
    command.add_argument("--script", type=Path, metavar="SCRIPT", required=required, help="with Config and build_model")
    command.add_argument(
        "--weights", type=Path, metavar="WEIGHTS", required=required,
        help="its model's state_dict: .pt or .safetensors, an index.json of several, or their folder",
    )  # fmt: skip


def say(line: str) -> None:
    """One line on standard error, above the progress."""
    print(terminal(line), file=sys.stderr)


def pack(options) -> int:
    from compress.pack import pack_run

    if options.run is None:
        result = pack_outside(options)
    else:
        with Progress() as progress:
            result = pack_run(options.run, options.out, options.track, progress, say)
    for warning in result["warnings"]:
        print(f"compress pack: warning: {terminal(warning)}", file=sys.stderr)
    if options.measure:
        from compress.lab.measure import measure_packed

        with Progress() as progress:
            result["measured"] = measure_packed(options.run, result, options.measure, progress)
    if options.json:
        print(json.dumps(result))
    else:
        report.print_pack(result)
    return 0


def beside(weights: Path, name: str) -> Path:
    """Where what is made of weights goes by default: into their folder."""
    return (weights if weights.is_dir() else weights.parent) / name


def pack_outside(options) -> dict:
    """The report of a script and weights from outside, packed."""
    from compress.checkpoint import read_statistics
    from compress.outside import Outside
    from compress.pack import pack_checkpoint

    out = options.out or beside(options.weights, "model.golf")
    if not out.parent.is_dir():
        raise ValueError(f"{out.parent} is not a folder; make it first")
    outside = Outside(options.script, options.weights)
    for note in outside.notes:
        say(f"compress pack: {note}")
    checkpoint = outside.checkpoint(options.tokenizer, options.track)
    statistics = read_statistics(options.statistics, outside.model) if options.statistics else None
    with Progress() as progress:
        return pack_checkpoint(checkpoint, statistics, "no --statistics", out, options.track, progress, say)


def calibrate(options) -> int:
    from compress.outside import Outside
    from compress.verify import saved

    out = options.out or beside(options.weights, "statistics.pt")
    if not out.parent.is_dir():
        raise ValueError(f"{out.parent} is not a folder; make it first")
    if options.tokens < 1:
        raise ValueError("--tokens: write a number from 1")
    outside = Outside(options.script, options.weights)
    for note in outside.notes:
        say(f"compress calibrate: {note}")
    with Progress() as progress:
        value = outside.statistics(options.data, options.tokens, progress)
    write_atomic(out, saved(value))
    matrices = sorted(value["linear"].keys() | value["embedding"].keys())
    without = [name for name, tensor in outside.model.items() if tensor.ndim == 2 and name not in matrices]
    result = {"statistics": str(out), "tokens": value["tokens"], "matrices": len(matrices), "without": without}
    result["made"] = value["made"]
    if without:
        say(
            f"compress calibrate: no statistics for what reaches neither F.linear nor F.embedding: {', '.join(without)}"
        )
    line = f"{out}: {len(matrices)} matrices, {value['tokens']:,} tokens, made {value['made']}"
    print(json.dumps(result) if options.json else terminal(line))
    return 0


def size(options) -> int:
    sections = container.read(read_bytes(options.file))
    result = {"artifact": str(options.file), **size_of(sections, options.track)}
    if options.json:
        print(json.dumps(result))
    else:
        report.print_sections(result)
    if result["headroom_bytes"] < 0:
        over = f"{-result['headroom_bytes']:,} bytes over the cap of {result['cap_bytes']:,} ({result['track']})"
        print(f"compress size: {terminal(str(options.file))}: {over}", file=sys.stderr)
        return 1
    return 0


def code(options) -> int:
    count = bounded.call("compress.minify:code_bytes", file=str(options.file.resolve()))
    line = f"{terminal(str(options.file))}: {count:,} bytes with the decoder"
    print(json.dumps({"code_bytes": count}) if options.json else line)
    return 0


def size_of(sections: dict[str, bytes], track: str | None) -> dict:
    if track is None:
        pocket = size_report(sections, "pocket")
        return pocket if pocket["headroom_bytes"] >= 0 else size_report(sections, "16mb")
    return size_report(sections, track)


def inspect(options) -> int:
    run = options.file.resolve() if options.file.is_dir() else None
    file = options.file / "model.golf" if run else options.file
    if not run or file.is_file():
        found = bounded.call(
            "compress.lab.inspection:inspect", file=str(file.resolve()), run=None if run is None else str(run)
        )
    else:
        found = bounded.call("compress.lab.inspection:inspect", file=None, run=str(run))
    if "left_out" in found:
        print(f"compress inspect: {terminal(f'{file} is left out: ' + found.pop('left_out'))}", file=sys.stderr)
    steps = found.pop("steps", None)
    result = found
    if "tensors" in found:
        result = {"artifact": str(file), **size_of(container.read(read_bytes(file)), None), **found}
    if options.plot:
        if steps is None:
            raise ValueError(f"{file} cannot be read, so there are no steps to draw; pack the run first")
        from compress.lab.plot import plot_steps

        plot_steps(steps, result.get("predicted_losses"), options.plot)
    print(json.dumps(result)) if options.json else report.print_inspect(result)
    return 0


def bench(options) -> int:
    from compress.lab.bench import bench, newest_run

    if options.plot and not options.plot.parent.is_dir():
        raise ValueError(f"{options.plot.parent} is not a folder; make it first")  # now, not after minutes
    run = options.run or newest_run(Path("runs"))
    with Progress() as progress:
        result = bench(run, options.data, progress)
    if options.plot:
        from compress.lab.plot import plot_curves

        plot_curves(result, options.plot)
    print(json.dumps(result)) if options.json else report.print_bench(result)
    return 0


def unpack(options) -> int:
    from compress.verify import unpack_into

    data, folder = read_bytes(options.file), options.folder
    folders.judge_empty(folder)
    container.read(data)  # before anything is made
    with folders.only_writer(folder) as path, folders.replaced(path, folders.judge_empty) as temporary:
        unpack_into(data, temporary)
    files = sorted(path.name for path in folder.iterdir())
    line = terminal(f"{folder}: {', '.join(files)}")
    print(json.dumps({"folder": str(folder), "files": files}) if options.json else line)
    return 0


def check(options) -> int:
    from compress.verify import verify

    data = read_bytes(options.file)
    result = {"artifact": str(options.file), "artifact_bytes": len(data), **verify(data)}
    if options.json:
        print(json.dumps(result))
        return 0
    count = len(result["tensors"])
    print(f"{terminal(str(options.file))}: {len(data):,} bytes, {count} tensors decode and load into the model")
    if options.env:
        report.print_rows(
            [{"with": key, "version": value} for key, value in result["versions"].items()], {"with": "", "version": ""}
        )
    return 0


if __name__ == "__main__":
    sys.exit(guarded("compress", main))
