"""`kilonet sweep`."""

import argparse
import json
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kilonet.cli.flags import Parser, add_json_flag
from kilonet.evaluation.metrics import METRIC_NAMES
from kilonet.utils.errors import KilonetError
from kilonet.utils.extras import needed_from
from kilonet.utils.terminal import printable_lines, shell_word

if TYPE_CHECKING:
    from kilonet.evaluation.metrics import Metric
    from kilonet.sweep.costs import Cost
    from kilonet.sweep.pareto import ParetoFront

_NO_COSTS = "none"


def add_flags(parser: Parser) -> None:
    parser.add_argument("plan", metavar="PLAN", help="a SWEEP.toml, or a packaged plan such as '1k'")
    parser.add_argument("--show", action="store_true", help="only print and draw what was found so far")
    parser.add_argument(
        "--address",
        metavar="HOST:PORT",
        help="join the Ray cluster at this address, or at 'auto' (default: start one on this machine)",
    )
    parser.add_argument(
        "--objective",
        choices=tuple(METRIC_NAMES),
        help="what is searched for on the holdout, beside low costs (default: the plan's, which is accuracy "
        "unless it says otherwise); with --show, what the front is made of",
    )
    parser.add_argument(
        "--costs",
        type=lambda text: [] if text == _NO_COSTS else text.split(","),
        metavar="COST[,COST...]",
        help="what is minimised beside the error: parameters, macs, ram_bytes, instructions, flash_bytes, or several "
        f"with commas, or {_NO_COSTS} for the error alone (default: the plan's, which is parameters unless it says "
        "otherwise); with --show, what the front is made of",
    )
    add_json_flag(parser)


def run(flags: argparse.Namespace) -> int:
    if flags.show:
        front = _stored_front(flags.plan, flags.objective, flags.costs)
    else:
        front = _search(flags.plan, flags.address, flags.objective, flags.costs)
    print(json.dumps(front.as_json()) if flags.json else printable_lines(front))
    return 0


def _search(source: str, address: str | None, objective: "Metric | None", costs: "list[Cost] | None") -> "ParetoFront":
    """Run a sweep, or continue it, and draw its Pareto front.

    Raises:
        KilonetError: the plan, its folder or the cluster cannot be used, or the extra `sweep` is not installed.
        KeyboardInterrupt: interrupted; its message has the command that continues the sweep.
    """
    from kilonet.sweep.plan import load_plan

    # Before the driver, whose libraries take seconds to import.
    plan = load_plan(source).with_search(objective=objective, costs=costs)
    with needed_from("sweep", "sweep"):
        from kilonet.sweep.driver import run as run_sweep

    try:
        front = run_sweep(plan, address)
    except KeyboardInterrupt:
        given: dict[str, Sequence[str]] = {
            "--address": [address] if address else [],
            "--objective": [objective] if objective else [],
            "--costs": [",".join(costs) or _NO_COSTS] if costs is not None else [],
        }
        flags = [word for flag, values in given.items() if values for word in (flag, *values)]
        words = shlex.join(["kilonet", "sweep", source, *flags])
        raise KeyboardInterrupt(f"interrupted; saved; go on with: {words}") from None
    front.draw()
    return front


def _stored_front(source: str, objective: "Metric | None", costs: "list[Cost] | None") -> "ParetoFront":
    """Read the Pareto front that a sweep has found so far, and draw it.

    Args:
        source: the plan.
        objective: what the front is made of; None for the objective with which the sweep was started.
        costs: what else; None for the costs with which the sweep was started.

    Raises:
        KilonetError: no such plan, nothing finished yet, trials of an older version that did not measure the
            objective, or the extra `sweep` is not installed.
    """
    from kilonet.sweep.pareto import ParetoFront
    from kilonet.sweep.plan import load_plan
    from kilonet.sweep.trials import Trials

    plan = load_plan(source)
    started = Trials(plan).started_plan()
    if started is None:
        raise KilonetError(f"{plan.out}: no sweep there yet; start it with: kilonet sweep {shell_word(source)}")
    plan = plan.with_search(objective=started.search.objective, costs=started.search.costs)
    front = ParetoFront.of(Trials(plan.with_search(objective=objective, costs=costs)))
    with needed_from("sweep", "--show"):
        front.draw()
    return front
