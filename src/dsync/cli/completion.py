"""`dsync completion`: the script that completes words in the shell."""

from __future__ import annotations

import click
from click.shell_completion import ShellComplete, get_completion_class

from dsync.cli.terminal import say


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> int:
    """Print the script that completes words in your shell.

    bash: `dsync completion bash > ~/.local/share/bash-completion/completions/dsync`
    """
    from dsync.cli.group import dsync

    kind = get_completion_class(shell)
    if kind is None:  # pragma: no cover - click knows all three
        raise click.UsageError(f"no completion for {shell}")
    # The base class's source(): bash's own one starts bash to ask for its version.
    say(ShellComplete.source(kind(dsync, {}, "dsync", "_DSYNC_COMPLETE")))
    return 0
