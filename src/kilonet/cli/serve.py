"""`kilonet serve`."""

import argparse

from kilonet.cli.flags import MODEL_OR_EXPORT, Parser, named


def add_flags(parser: Parser) -> None:
    parser.usage = "%(prog)s MODEL [flags]"
    parser.add_argument("model", type=named, metavar="MODEL", help=MODEL_OR_EXPORT)
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="the address to listen on (default: %(default)s, which only this machine reaches); :: for all, "
        "by IPv6 and IPv4",
    )
    parser.add_argument(
        "--port", type=int, default=8000, metavar="N", help="the port; 0 for any free one (default: %(default)s)"
    )
    parser.add_argument(
        "--allow-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="an origin, such as http://localhost:3000, whose pages may read the answers (CORS); * for any; "
        "may be repeated (default: none)",
    )
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a host name that requests may be sent to; may be repeated (default: on a loopback address the names of "
        "this machine, else any)",
    )
    limits = parser.add_argument_group("limits", "A request over a limit is refused before anything is decoded.")
    for name, kind, default, text in (
        ("bytes", int, 8 << 20, "bytes of a request's body"),
        ("pixels", int, 16_000_000, "pixels of an image, rows times columns"),
        ("images", int, 32, "images in a batch"),
        ("requests", int, 128, "requests at a time; more are answered with status 503"),
        (
            "seconds",
            float,
            10.0,
            "seconds for a request's head, for its body, for its answer, and for the client to read it",
        ),
    ):
        limits.add_argument(
            f"--max-{name}", type=kind, default=default, metavar="N", help=f"{text} (default: %(default)s)"
        )


def run(flags: argparse.Namespace) -> int:
    from kilonet.export.loading import load
    from kilonet.serve.limits import RequestLimits
    from kilonet.serve.server import serve

    limits = RequestLimits(flags.max_bytes, flags.max_pixels, flags.max_images, flags.max_requests, flags.max_seconds)
    serve(
        load(flags.model),
        flags.model,
        (flags.host, flags.port),
        limits,
        lambda line: print(line, flush=True),
        hosts=flags.allow_host,
        origins=flags.allow_origin,
    )
    return 0
