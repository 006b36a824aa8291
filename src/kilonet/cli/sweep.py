"""`kilonet sweep`."""

import argparse
import json
import shlex
from typing import TYPE_CHECKING

from kilonet.cli.flags import Parser, add_json_flag
from kilonet.utils.extras import needed_from
from kilonet.utils.terminal import printable_lines

if TYPE_CHECKING:
    from kilonet.sweep.pareto import ParetoFront


def add_flags(parser: Parser) -> None:
    parser.add_argument("plan", metavar="PLAN", help="a SWEEP.toml, or a packaged plan ('1k', '2k')")
    parser.add_argument("--show", action="store_true", help="only print and draw what was found so far")
    parser.add_argument(
        "--address",
        metavar="HOST:PORT",
        help="join the Ray cluster at this address, or at 'auto' (default: start one on this machine)",
    )
    add_json_flag(parser)


def run(flags: argparse.Namespace) -> int:
    front = _stored_front(flags.plan) if flags.show else _search(flags.plan, flags.address)
    print(json.dumps(front.as_json()) if flags.json else printable_lines(front))
    return 0


def _search(plan: str, address: str | None) -> "ParetoFront":
    """Run a sweep, or continue it, and draw its Pareto front.

    Raises:
        KilonetError: the plan, its folder or the cluster cannot be used, or the extra `sweep` is not installed.
        KeyboardInterrupt: interrupted; its message has the command that continues the sweep.
    """
    with needed_from("sweep", "sweep"):
        from kilonet.sweep.driver import run as run_sweep
        from kilonet.sweep.plan import load_plan

    try:
        front = run_sweep(load_plan(plan), address)
    except KeyboardInterrupt:
        words = shlex.join(["kilonet", "sweep", plan, *(["--address", address] if address else [])])
        raise KeyboardInterrupt(f"interrupted; saved; go on with: {words}") from None
    front.draw()
    return front


def _stored_front(plan: str) -> "ParetoFront":
    """Read the Pareto front that a sweep has found so far, and draw it.

    Raises:
        KilonetError: no such plan, nothing finished yet, or the extra `sweep` is not installed.
    """
    from kilonet.sweep.pareto import ParetoFront
    from kilonet.sweep.plan import load_plan
    from kilonet.sweep.trials import Trials

    front = ParetoFront.of(Trials(load_plan(plan)))
    with needed_from("sweep", "--show"):
        front.draw()
    return front
