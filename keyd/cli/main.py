"""The `keyd` command: finds the subcommand, runs it, and turns what it raises into exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import NamedTuple

import click

from keyd.cli.exits import Exit, exit_code
from keyd.cli.output import emit_json, error_data, report, say
from keyd.errors import KeydError
from keyd_client.errors import KeydClientError


class Lazy(NamedTuple):
    """Where a command lives and what `keyd --help` says of it without loading it."""

    module: str
    attribute: str
    help: str


COMMANDS: Mapping[str, Lazy] = {
    "approve": Lazy("approve", "approve", "Approve a statement file offline, with your own key."),
    "audit": Lazy("audit", "audit", "Read, verify and prove the audit log."),
    "check": Lazy("sign", "check", "Judge TUF metadata as signing would, without a token."),
    "completion": Lazy("completion", "completion", "Print the shell's completion script."),
    "config": Lazy("config", "config", "Validate the configuration offline."),
    "dev": Lazy("dev", "dev", "Run a whole working daemon below one directory."),
    "doctor": Lazy("doctor", "doctor", "Find out what is wrong and how to mend it."),
    "init": Lazy("init", "init", "Write a configuration and create the ledger."),
    "key": Lazy("key", "key", "Make, list and retire keys."),
    "ledger": Lazy("ledger", "ledger", "Back up, repair and verify the ledger."),
    "officer": Lazy("officer", "officer", "Enrol, replace and revoke the persons who approve."),
    "policy": Lazy("policy", "policy", "Explain who may do what."),
    "proposal": Lazy("proposal", "proposal", "Propose what needs officers, and decide on it."),
    "repo": Lazy("repo", "repo", "Register TUF repositories and see their state."),
    "rotate": Lazy("rotate", "rotate", "Plan and carry out key rotations."),
    "serve": Lazy("serve", "serve", "Run the daemon."),
    "sign": Lazy("sign", "sign", "Have TUF metadata signed."),
    "token": Lazy("token", "token", "List, unlock and quarantine tokens."),
}


class LazyGroup(click.Group):
    """Loads a command's module only when the command is wanted: most need gRPC, `--help` not."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """All commands, by name."""
        return sorted(COMMANDS)

    def get_command(
        self,
        ctx: click.Context,  # noqa: ARG002
        cmd_name: str,
    ) -> click.Command | None:
        """Load one command."""
        lazy = COMMANDS.get(cmd_name)
        if lazy is None:
            return None
        command = getattr(import_module(f"keyd.cli.{lazy.module}"), lazy.attribute)
        assert isinstance(command, click.Command)  # noqa: S101 - the table above is ours
        return command

    def format_commands(
        self,
        ctx: click.Context,  # noqa: ARG002
        formatter: click.HelpFormatter,
    ) -> None:
        """List the commands without loading them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name].help) for name in sorted(COMMANDS)])


def _print_version(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    from importlib.metadata import version  # noqa: PLC0415 - reads the disk

    click.echo(f"keyd {version('keyd')}\nkeyd-client {version('keyd-client')}\napi keyd.v1")
    ctx.exit()


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 refused or failed, 2 usage, 69 unavailable, 75 try again, "
    "77 not allowed, 78 bad configuration.",
)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_print_version,
    help="Print the versions of daemon, client and API.",
)
def cli() -> None:
    """Keeps TUF signing keys on hardware tokens and is the only thing that can use them."""


def _report_usage(reason: str, message: str, arguments: Sequence[str]) -> None:
    """What click tells people, for programs."""
    if "--json" in arguments:
        emit_json({"error": error_data(KeydError(reason, message))})


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns the exit code."""
    try:
        result = cli.main(list(arguments), prog_name="keyd", standalone_mode=False)
    except click.ClickException as error:
        _report_usage("USAGE", error.format_message(), arguments)
        error.show()
        return error.exit_code
    except click.Abort:
        _report_usage("ABORTED", "somebody broke it off", arguments)
        say("keyd: aborted")
        return Exit.FAILED
    except (KeydError, KeydClientError) as error:
        report(error, "--json" in arguments)
        return exit_code(error)
    except BrokenPipeError:
        # Whoever read our output has gone; nothing of it may be flushed at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.FAILED
    except OSError as error:
        # Adapters translate what they expect; a file that this user may not touch can be any.
        place = error.filename or "this system"
        report(
            KeydError("SYSTEM_ERROR", f"{place}: {error.strerror or error}"), "--json" in arguments
        )
        return Exit.FAILED
    return result if isinstance(result, int) else Exit.DONE


def main() -> None:
    """Entry point of the `keyd` program."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["serve"]:
        from keyd.daemon.frugal import be_frugal  # noqa: PLC0415 - other commands do without

        be_frugal()
    sys.exit(run(arguments))
