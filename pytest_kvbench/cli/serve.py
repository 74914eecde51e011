"""`kvbench serve`: the embedded server, whose command line is its own."""

from __future__ import annotations

import sys

import click


@click.command(
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
)
@click.pass_context
def serve(ctx: click.Context) -> None:
    """Serve a model by the embedded server until told to stop; its options: kvbench serve -h.

    They are those of `python -m pytest_kvbench.server`, which reads them.
    """
    # Late: whoever asks for another command needs no server.
    from pytest_kvbench.server.__main__ import main

    sys.exit(main(ctx.args, program="kvbench serve"))
