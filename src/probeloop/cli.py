"""The command line: thin words over the rooms that do the work. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from .data.errors import ProbeloopError, Problem, SettingsError

_EXAMPLES = {
    "demo": "probeloop demo stem --headless --seconds 30 --seed 1 --json",
    "run": "probeloop run pto-beps --headless --record sessions\n  "
    'probeloop run my-rig.toml --set instrument.file=loops.h5 --set "instrument.pixel_size=5 nm"',
    "gui": "probeloop gui --connect stem\n  probeloop gui --connect tcp://192.168.1.20:5590 --key anna",
    "connect": "probeloop connect tcp://192.168.1.20:5590 --key anna\n  probeloop gui --connect stem-remote",
    "keys": "probeloop keys new anna\n  probeloop keys trust anna.public --as operator",
    "stop": "probeloop stop",
    "list": "probeloop list --json",
    "new": "probeloop new plugin my_filter\n  probeloop new driver my_camera --folder .",
    "check": "probeloop check plugins/annular_detector.py\n  "
    'probeloop check my_camera.py --set port=5055 --set \'field_of_view=["100 nm", "60 nm"]\'',
    "checkup": "probeloop checkup stem --headless --seed 3\n  probeloop checkup my-rig.toml --lattice 0.3905 --apply",
    "plan": "probeloop plan stem --dry-run\n  "
    "probeloop plan spm --dry-run --plan explore --set plan.parameters.count=40\n  "
    "probeloop plan my-rig.toml --dry-run --on stem --json",
    "replay": "probeloop replay sessions/2026-03-01_120000_stem",
    "rerun": "probeloop rerun sessions/2026-03-01_120000_stem --json",
    "score": "probeloop score sessions/2026-03-01_120000_stem --json",
    "bench": "probeloop bench loop --what autofocus --seeds 20 --json\n  "
    "probeloop bench bus --seconds 40\n  probeloop bench detectors --json\n  "
    "probeloop bench load --rate 1000 --seconds 60\n  probeloop bench drivers --what merlin --json\n  "
    "probeloop bench chaos --minutes 5 --seed 1",
    "train": "probeloop train segment --quick --out walls.safetensors\n  probeloop train segment mine.toml --seed 3",
    "doctor": "probeloop doctor\n  probeloop doctor --live --connect stem --seconds 10",
    "schema": "probeloop schema commands",
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="probeloop",
        description="Closes the loop between a microscope's detector and its probe.",
        epilog="probeloop COMMAND --help shows an example of each.",
    )
    parser.add_argument("--version", action="store_true", help="print the version and end")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=text,
            description=text,
            epilog=f"example:\n  {_EXAMPLES[name]}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    demo = add("demo", "simulated microscope, live plug-ins, closed loop; with a window where there is a screen")
    demo.add_argument("what", nargs="?", default="stem", help="which microscope (default: stem)")
    run = add("run", "run a rig: instrument, plug-ins, plan, record")
    run.add_argument("rig", help="name of a shipped rig, or the path of a .toml")
    replay = add("replay", "play a recorded session again as an instrument")
    replay.add_argument("session", help="folder of the session")
    for each in (demo, run, replay):
        each.add_argument("--plan", help="run this plan instead of the rig's")
        each.add_argument("--seed", type=int, help="seed of everything random")
        each.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key of the rig")
        each.add_argument("--record", metavar="DIR", help="folder for the session (default: ./sessions)")
        each.add_argument("--headless", action="store_true", help="no window; a report.html instead")
        each.add_argument("--seconds", type=float, help="end after this long [s]")
        each.add_argument("--json", action="store_true", help="print the summary as JSON")
    ahead = add("plan", "what a rig's plans will cost: commands, time, dose, refusals; nothing is measured")
    ahead.add_argument("rig", help="name of a shipped rig, or the path of a .toml")
    ahead.add_argument("--dry-run", action="store_true", help="run them on a simulator, behind the rig's own gate")
    ahead.add_argument("--plan", help="this plan (a name or a .toml) instead of the rig's")
    ahead.add_argument("--seed", type=int, help="seed of everything random")
    ahead.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key of the rig")
    ahead.add_argument("--on", metavar="RIG", help="the simulator of this rig stands in for the rig's hardware")
    ahead.add_argument(
        "--from",
        dest="session",
        metavar="SESSION",
        help="of such a specimen: what so many spectra are expected to earn",
    )
    ahead.add_argument("--json", action="store_true", help="print as JSON")
    for name, text in (
        ("rerun", "run a session's commands again on its simulator, and compare every frame"),
        ("score", "hold a simulated session against the truth of its simulator"),
    ):
        each = add(name, text)
        each.add_argument("session", help="folder of the session")
        each.add_argument("--json", action="store_true", help="print as JSON")
    check_up = add("checkup", "measure what an instrument believes of itself: STOP, read-back, calibrations, drift")
    check_up.add_argument("rig", help="name of a shipped rig, or the path of a .toml")
    check_up.add_argument("--seed", type=int, help="of a simulator: which column")
    check_up.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key of the rig")
    check_up.add_argument(
        "--lattice", metavar="A[,B[,ANGLE]]", help="known lattice [nm, deg] (default: SrTiO3, 0.3905)"
    )
    check_up.add_argument("--apply", action="store_true", help="keep what was found for later runs of this rig")
    check_up.add_argument("--record", metavar="DIR", help="folder for the session (default: ./sessions)")
    check_up.add_argument("--headless", action="store_true", help="no window")
    check_up.add_argument("--json", action="store_true", help="print as JSON")
    gui = add("gui", "open the window of a rig that runs")
    stop = add("stop", "STOP: the instrument goes to its safe state, every queue is flushed")
    for each in (gui, stop):
        each.add_argument("--connect", metavar="RIG", help="name of the running rig (default: the only one)")
    connect = add(
        "connect", "make a rig of another host a rig of this one: its window, recorder and plug-ins work here"
    )
    connect.add_argument("endpoint", help="where its relay listens: tcp://HOST:PORT")
    connect.add_argument("--name", help="its name here (default: its name there and -remote)")
    connect.add_argument("--with-parent", action="store_true", help=argparse.SUPPRESS)
    for each in (gui, connect):
        each.add_argument("--key", metavar="NAME", help="which key of this host to use: probeloop keys list")
        each.add_argument("--server", metavar="NAME", help="which trusted server it must be (default: the only one)")
    keys = add("keys", "this host's keys, and those of others that it trusts").add_subparsers(
        dest="what", metavar="WHAT", required=True
    )
    keys.add_parser("new", help="make a key").add_argument("name", help="of the key: small letters, digits, - and _")
    keys.add_parser("list", help="all keys, own and trusted")
    trust = keys.add_parser("trust", help="trust a key that was handed over")
    trust.add_argument("file", help="its .public file")
    trust.add_argument(
        "--as", dest="role", required=True, choices=["viewer", "operator", "server"], help="what it may do"
    )
    keys.add_parser("revoke", help="trust a key no longer").add_argument("name", help="of the key")
    listing = add("list", "drop-ins found, and why any was not loaded")
    listing.add_argument("--json", action="store_true", help="print as JSON")
    new = add("new", "write a drop-in to start from")
    new.add_argument("kind", choices=["plugin", "driver"], help="what to write")
    new.add_argument("name", help="its name: small letters, digits, _")
    new.add_argument("--kind", dest="of", choices=["frames", "join"], default="frames",
                     help="of a plug-in: one topic frame by frame (the default), or several joined")  # fmt: skip
    new.add_argument("--folder", help="where (default: your plug-in folder, which running rigs watch)")
    check = add("check", "hold a drop-in against its contract")
    check.add_argument("path", help="the file or folder of the drop-in")
    check.add_argument("--set", action="append", default=[], metavar="KEY=VALUE",
                       help="a setting of a driver; its hardware, or a server instead, must be there")  # fmt: skip
    bench = add("bench", "measure")
    bench.add_argument(
        "name",
        help="what to measure: loop (a drop-in's own), simulator (a simulator's speed and truth), bus (the "
        "transport), detectors (sums over frames), drivers (of instruments of others, against programs of others), "
        "load (a whole rig under a camera that waits for nobody), chaos (faults in running rigs) or a drop-in, such "
        "as segment",
    )
    bench.add_argument("--what", help="for loop and simulator: which drop-in (default: autofocus, stem); for "
                       "drivers: merlin, dectris_v1, dectris_v2 or load (default: all but load); for dkl: one family "
                       "of worlds, or real")  # fmt: skip
    bench.add_argument("--seeds", type=int, default=20, help="how many seeds (default: 20)")
    bench.add_argument("--seed", type=int, default=0, help="the first seed")
    bench.add_argument("--seconds", type=float, help="about how long (default: the bench's own) [s]")
    bench.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="for detectors: also on the GPU")
    bench.add_argument("--rate", type=float, help="for load: frames a second (default: 1000)")
    bench.add_argument("--search", action="store_true", help="for load: find the highest rate without a lost frame")
    bench.add_argument("--record", metavar="DIR", help="for load: keep its sessions here (default: they are removed)")
    bench.add_argument("--minutes", type=float, default=1.0, help="for chaos: how long (default: 1)")
    bench.add_argument("--faults", metavar="NAME,...", help="for chaos: only these (default: all)")
    bench.add_argument("--json", action="store_true", help="print as JSON")
    train = add("train", "train what a drop-in learns; a run that was killed goes on when it is started again")
    train.add_argument("name", help="the drop-in, such as segment")
    train.add_argument("config", nargs="?", help="a .toml with its settings (default: the drop-in's own)")
    train.add_argument("--quick", action="store_true", help="the drop-in's short training: minutes on two cores")
    train.add_argument("--seed", type=int, help="seed of everything random")
    train.add_argument("--out", metavar="FILE", help="file of the weights")
    train.add_argument("--on", metavar="SESSION", help="let what is trained learn from the maps of a session, where "
                       "the drop-in can")  # fmt: skip
    doctor = add("doctor", "what this machine has and lacks, and the next move; --live: where a rig's time goes")
    doctor.add_argument("--live", action="store_true", help="watch a rig that runs: rates, losses, latency by stage")
    doctor.add_argument(
        "--connect", metavar="RIG", help="with --live: name of the running rig (default: the only one)"
    )
    doctor.add_argument("--seconds", type=float, help="with --live: how long to watch (default: 5) [s]")
    doctor.add_argument("--json", action="store_true", help="print as JSON")
    schema = add("schema", "print the JSON Schema of commands, requests, events; or the gate's table")
    schema.add_argument(
        "what", nargs="?", default="commands", choices=["commands", "requests", "events", "rig", "gate"]
    )
    schema.add_argument("rig", nargs="?", help="with gate: a rig that runs, whose alarms are listed too")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code. Errors are one line with the next move."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.version:
        from importlib.metadata import version

        _say(f"probeloop {version('probeloop')}")
        return 0
    if options.command is None:
        parser.print_help()
        return 0
    try:
        return _dispatch(options)
    except SettingsError as error:
        for problem in error.problems:
            _complain(str(problem))
        if error.next_move:
            _complain(error.next_move)
        return 2
    except ProbeloopError as error:
        _complain(str(error))
        return 2
    except KeyboardInterrupt:
        _complain("interrupted")
        return 130
    except BrokenPipeError:
        return 141


def _check_bench(options: argparse.Namespace) -> None:
    """Raise SettingsError, all faults at once, for a bench that could only fail once it has started."""
    problems = [
        Problem(f"--{name}", f"{value:g}", f"0 < number <= {most:g}")
        for name, most in (("seconds", 1e6), ("rate", 1e5), ("minutes", 1e5), ("seeds", 1e5))
        if (value := getattr(options, name)) is not None and not 0 < value <= most
    ]
    if problems:
        raise SettingsError(problems)


def _dispatch(options: argparse.Namespace) -> int:
    if options.command == "bench":
        _check_bench(options)
    match options.command:
        case "demo" | "run" | "replay":
            from .rig.run import run

            return run(options)
        case "plan":
            from .rig.dry_run import plan

            return plan(options)
        case "rerun":
            from .rig.rerun import rerun

            return rerun(options)
        case "score":
            from .rig.score import score

            return score(options)
        case "checkup":
            from .rig.checkup import checkup

            return checkup(options)
        case "stop":
            from .rig.client import stop

            _say(stop(options.connect))
            return 0
        case "gui":
            from .rig.run import open_window

            return open_window(options.connect, options.key, options.server)
        case "connect":
            from .rig.remote import connect

            return connect(options)
        case "keys":
            from .rig.keys import keys

            return keys(options)
        case "bench" if options.name == "detectors":
            from .bench.detectors import run as bench_detectors

            return bench_detectors(options)
        case "bench" if options.name == "bus":
            from .bench.bus import run as bench_bus

            return bench_bus(options)
        case "bench" if options.name == "drivers":
            from .bench.drivers import run as bench_drivers

            return bench_drivers(options)
        case "bench" if options.name == "load":
            from .bench.load import run as bench_load

            return bench_load(options)
        case "bench" if options.name == "chaos":
            from .bench.chaos.campaign import run as bench_chaos

            return bench_chaos(options)
        case "bench":
            from .rig.catalogue import bench

            return bench(options)
        case "doctor":
            from .rig.doctor import doctor

            return doctor(options)
        case _:
            from .rig import catalogue

            return int(getattr(catalogue, options.command)(options))


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def _complain(text: str) -> None:
    sys.stderr.write(f"probeloop: {text}\n")


if __name__ == "__main__":
    sys.exit(main())
