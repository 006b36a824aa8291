"""Sweeps as the command line does them: the extra that may be missing, and Ctrl-C."""

import shlex
from typing import TYPE_CHECKING

from kilonet.utils.extras import needed_from

if TYPE_CHECKING:
    from kilonet.sweep.pareto import Front


def sweep(source: str, address: str | None) -> "Front":
    """Run a sweep, or go on with it, and draw its front.

    Raises:
        KilonetError: the plan, its folder or the cluster will not do, or the extra `sweep` is not installed.
        KeyboardInterrupt: interrupted; its message says how to go on.
    """
    with needed_from("sweep", "sweep"):
        from kilonet.sweep.driver import run  # noqa: PLC0415
        from kilonet.sweep.plan import load_plan  # noqa: PLC0415
    plan = load_plan(source)
    try:
        front = run(plan, address)
    except KeyboardInterrupt:
        words = shlex.join(["kilonet", "sweep", source, *(["--address", address] if address else [])])
        raise KeyboardInterrupt(f"interrupted; saved; go on with: {words}") from None
    front.draw()
    return front


def show(source: str) -> "Front":
    """Read what a sweep has found so far, and draw it.

    Raises:
        KilonetError: no such plan, nothing finished yet, or the extra `sweep` is not installed.
    """
    from kilonet.sweep.pareto import Front  # noqa: PLC0415
    from kilonet.sweep.plan import load_plan  # noqa: PLC0415
    from kilonet.sweep.trials import Trials  # noqa: PLC0415

    front = Front.of(Trials(load_plan(source)))
    with needed_from("sweep", "--show"):
        front.draw()
    return front
