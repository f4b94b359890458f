"""`keyd completion`: what a shell needs to complete our commands."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from keyd.cli.options import examples

_VARIABLE = "_KEYD_COMPLETE"


@click.command(
    epilog=examples(
        "keyd completion bash > ~/.local/share/bash-completion/completions/keyd",
        "keyd completion zsh > ~/.zfunc/_keyd",
        "keyd completion fish > ~/.config/fish/completions/keyd.fish",
    )
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the shell's completion script."""
    root = context.find_root().command
    script = get_completion_class(shell)
    assert script is not None  # noqa: S101 - click knows the three shells above
    click.echo(script(root, {}, "keyd", _VARIABLE).source())
