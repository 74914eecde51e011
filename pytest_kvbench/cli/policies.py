"""`kvbench policies`: what may stand in `kv.policies` of the embedded engine."""

from __future__ import annotations

import json

import click

from pytest_kvbench.policies.table import catalogue


@click.command()
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def policies(as_json: bool) -> None:
    """List the policies of the embedded engine: kvpress's classes, and quantised caches.

    Each with its class, paper, parameters, how it is served and what proves it.
    """
    if as_json:
        click.echo(json.dumps([policy.listed() for policy in catalogue().values()], indent=1))
        return
    for policy in catalogue().values():
        click.echo(f"{policy.name}: {policy.note}")
        click.echo(f"    {policy.press or '-'}; {policy.served}; proof: {policy.proof}")
        for name, param in policy.params.items():
            click.echo(f"    {name}: {json.dumps(param.default)} ({param.valid})")
        more = {"needs": policy.trained, "refused": policy.refused, "arXiv": policy.paper}
        for word, value in more.items():
            if value:
                click.echo(f"    {word}: {value}")
