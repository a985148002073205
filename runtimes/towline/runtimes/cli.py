"""The command: what a person types, and what the shell gets back.

Exit codes: 0 done, 1 what was asked is not so, 2 usage or configuration, 3 a peer is unreachable, 130 interrupted.
Reading the command line imports none of the rest; each command's code is imported when it runs.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from towline._version import VERSION

DONE, NOT_SO, USAGE, UNREACHABLE, INTERRUPTED = 0, 1, 2, 3, 130

_PROGRAMS = {
    "server": "take tunnels and let callers through them; keep results",
    "client": "dial out to a server and let its requests through the allow-list",
    "agent": "log in to a registry, list, pull and take inventories",
    "up": "client and agent in one process",
}


class _Help(argparse.HelpFormatter):
    """`-o, --output FORM`, not `-o FORM, --output FORM`; and room for it."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=36)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        value = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{', '.join(action.option_strings)} {value}"


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors look like all the others."""

    def __init__(self, **how: Any) -> None:
        super().__init__(formatter_class=_Help, **how)

    def error(self, message: str) -> NoReturn:
        _say(f"towline: BAD_REQUEST: {message}", f"hint: {self.prog} --help")
        raise SystemExit(USAGE)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code. Never raises for what a user or a peer did."""
    for name in ("stdout", "stderr"):
        # Started with it closed: nobody reads it.
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as stop:
        return int(stop.code or 0)
    try:
        code = _run(arguments)
        # Or a reader that went away would be noticed at the interpreter's end only, loudly.
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away; there is nobody left to tell.
        _discard_output()
        return NOT_SO
    except OSError as error:
        if arguments.debug:
            raise
        _discard_output()
        where = f" ({error.filename})" if error.filename else ""
        _say(f"towline: INTERNAL: {(error.strerror or str(error)).lower()}{where}")
        return NOT_SO
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("towline"):
            raise
        _say(f"towline: INVALID_CONFIGURATION: this command needs {error.name}", 'hint: pip install "towline[agent]"')
        return USAGE


def _run(arguments: argparse.Namespace) -> int:
    if arguments.command == "version":
        sys.stdout.write(f'{{"version":"{VERSION}"}}\n' if arguments.output == "json" else f"towline {VERSION}\n")
        return DONE
    from towline.core import TowlineError

    try:
        return _command(arguments.command, arguments)
    except TowlineError as error:
        if arguments.debug:
            raise
        from towline.runtimes.output import error_lines, exit_code

        _say(*error_lines(error))
        return exit_code(error)


def _command(command: str, arguments: argparse.Namespace) -> int:
    if command in _PROGRAMS:
        from towline.runtimes.programs import run_program

        return run_program(command, arguments)
    if command == "demo":
        from towline.runtimes.demo.scene import run_demo

        return run_demo(arguments)
    from towline.runtimes.hands import run_tool

    return run_tool(command, arguments)


def _discard_output() -> None:
    """Let what waits for stdout go nowhere, so that the interpreter's end does not try it again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(*lines: str) -> None:
    for line in lines:
        sys.stderr.write(line + "\n")


def _parser() -> argparse.ArgumentParser:
    everywhere = _Parser(add_help=False)
    everywhere.add_argument("-v", "--verbose", action="store_true", help="log more")
    everywhere.add_argument("--debug", action="store_true", help="show the trace of an error")
    configured = _Parser(add_help=False, parents=[everywhere])
    configured.add_argument("--config", metavar="FILE", help="settings (TOML, or JSON when the name ends in .json)")
    configured.add_argument("--log-format", choices=("human", "json"), help="default: human on a terminal, else json")

    parser = _Parser(
        prog="towline",
        description="Reach container registries that the internet cannot.",
        epilog="exit codes: 0 done, 1 what was asked is not so, 2 usage or configuration, 3 a peer is unreachable,"
        " 130 interrupted",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    for name, meaning in _PROGRAMS.items():
        program = commands.add_parser(name, help=meaning, description=meaning, parents=[configured])
        program.add_argument("--port", metavar="PORT", help="listen here instead of the configured port")
        program.add_argument("--bind", metavar="ADDRESS", help="listen on this address only")
    demo = commands.add_parser(
        "demo", help="all of it on loopback, with an embedded registry", parents=[everywhere],
        description="Run server, client, agent and an embedded registry on loopback, and scan one image through them.",
    )  # fmt: skip
    demo.add_argument("-o", "--output", choices=("table", "json"), default="table", help="form of the result")
    demo.add_argument("--serve", action="store_true", help="stay up afterwards, on fixed ports, to try things")

    registry = _Parser(add_help=False, parents=[everywhere])
    _registry_options(registry)

    def tool(name: str, meaning: str, *aliases: str) -> _Parser:
        return commands.add_parser(
            name, help=meaning, description=meaning, aliases=list(aliases), parents=[registry]
        )  # fmt: skip

    check = tool("check", "say which step on the way to a registry fails, and why")
    check.add_argument("registry", metavar="REGISTRY", help="host[:port][/path]")
    check.add_argument("--login-only", action="store_true", help="do not try to list and to read as well")
    repos = tool("repos", "list a registry's repositories", "catalog")
    repos.add_argument("registry", metavar="REGISTRY", help="host[:port][/path]")
    tags = tool("tags", "list a repository's tags", "ls")
    tags.add_argument("image", metavar="REPOSITORY", help="host[:port]/path")
    _base_option(tags)
    tags.add_argument("-l", "--long", action="store_true", help="with digest, time of the push and size")
    inspect = tool("inspect", "show an image's manifest and config")
    inspect.add_argument("image", metavar="IMAGE", help="host[:port]/path[:tag][@digest]")
    _base_option(inspect)
    form = inspect.add_mutually_exclusive_group()
    form.add_argument(
        "--raw",
        action="store_true",
        help="the manifest's bytes, as the registry sent them; with --platform that image's",
    )
    form.add_argument("--config", dest="show_config", action="store_true", help="the image's config")
    pull = tool("pull", "download an image and prove every byte")
    pull.add_argument("image", metavar="IMAGE", help="host[:port]/path[:tag][@digest]")
    _base_option(pull)
    pull.add_argument("path", metavar="PATH", help="folder of the OCI layout to write")
    scan = tool("scan", "take an image's inventory")
    scan.add_argument("image", metavar="IMAGE", nargs="+", help="host[:port]/path[:tag][@digest]")
    _base_option(scan)
    scan.add_argument("--glob", action="append", default=[], metavar="GLOB", help="also return files that match")
    scan.add_argument("--exclude", action="append", default=[], metavar="GLOB", help="but not those that match this")
    scan.add_argument("--max-image-bytes", metavar="N", type=_count, help="refuse larger images (compressed size)")
    for imaged in (inspect, pull, scan):
        default = "all" if imaged is pull else "linux on this machine"
        more = "; all lists what an index has" if imaged is inspect else ""
        imaged.add_argument("--platform", metavar="OS/ARCH[/VARIANT]", help=f"default: {default}{more}")
    for streaming in (pull, scan):
        streaming.add_argument("--no-progress", action="store_true", help="no live lines on a terminal")
        streaming.add_argument("-q", "--quiet", action="store_true", help="no live lines and no remarks")
    version = commands.add_parser(
        "version", help="print the version", description="print the version", parents=[everywhere]
    )
    version.add_argument("-o", "--output", choices=("plain", "json"), default="plain", help="form of the answer")
    return parser


def _registry_options(parser: _Parser) -> None:
    parser.add_argument("-o", "--output", choices=("table", "plain", "json"), help="default: table, lines in a pipe")
    parser.add_argument(
        "--type", metavar="TYPE", help="registry type, such as harbor-cr (default: by the host, else oci)"
    )
    parser.add_argument("--api", metavar="URL", help="where the vendor's API is, if not at the usual place")
    parser.add_argument(
        "--namespace", action="append", default=[], metavar="NAME", help="owner, group or project to list"
    )
    parser.add_argument("--role-arn", metavar="ARN", help="role to take at ECR (external id: CR_EXTERNAL_ID)")
    parser.add_argument("--region", metavar="REGION", help="region of that role")
    parser.add_argument("--creds", metavar="USER[:PASSWORD]", help="login; a password here is visible to `ps`")
    parser.add_argument("--creds-stdin", action="store_true", help="read user:password from standard input")
    parser.add_argument("--authfile", metavar="FILE", help="read logins from here")
    parser.add_argument("--anonymous", action="store_true", help="use no login")
    parser.add_argument("--tls-verify", choices=("true", "false"), default="true", help="verify the certificate")
    parser.add_argument("--plain-http", action="store_true", help="clear text instead of TLS")
    parser.add_argument("--ca-file", action="append", default=[], metavar="PEM", help="further trusted roots")
    parser.add_argument(
        "--realm-host", action="append", default=[], metavar="HOST", help="may be asked for a token too"
    )
    parser.add_argument("--allow-network", action="append", default=[], metavar="CIDR", help="redirects may lead here")
    parser.add_argument("--timeout", metavar="TIME", type=_duration, help="for the whole operation, such as 30s or 5m")
    parser.add_argument("--retries", type=_count, metavar="N", help="attempts after the first (default 4)")
    # For tests: a vendor's name at another address, its lists in small pages and by one of two ways, another moment.
    parser.add_argument("--resolve", action="append", default=[], metavar="HOST:PORT:ADDR", help=argparse.SUPPRESS)
    parser.add_argument("--page-size", type=_count, metavar="N", help=argparse.SUPPRESS)
    parser.add_argument("--via", choices=("", "registry", "api"), default="", help=argparse.SUPPRESS)
    parser.add_argument("--wall-clock", metavar="MOMENT", help=argparse.SUPPRESS)


def _base_option(parser: _Parser) -> None:
    parser.add_argument(
        "--registry", metavar="BASE", help="where the registry is, if that has a path; the image is then a name in it"
    )


def _duration(value: str) -> float:
    from towline.runtimes.values import seconds

    try:
        return seconds(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _count(value: str) -> int:
    if not value.isdecimal() or len(value) > 18:
        raise argparse.ArgumentTypeError(f"expected a whole number, got {value[:32]!r}")
    return int(value)
