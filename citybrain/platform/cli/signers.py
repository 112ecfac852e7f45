"""The command `signers`: whose word counts for a version's files."""

from __future__ import annotations

from typing import Annotated

import typer

from citybrain.core.errors import InvalidInput
from citybrain.core.names import parse_ref
from citybrain.platform.cli.output import JsonFlag, client, screen, show_json, show_table


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    app.command()(signers)


def signers(
    *,
    rotate: Annotated[
        bool, typer.Option("--rotate", help="Sign with a new key from now on.")
    ] = False,
    revoke: Annotated[str, typer.Option(help="Trust this signer no more.")] = "",
    sign: Annotated[str, typer.Option(help="Vouch for NAME@VERSION again.")] = "",
    json: JsonFlag = False,
) -> None:
    """List, renew or revoke the keys that vouch for versions (Ed25519).

    Example: `citybrain signers --rotate`, then `citybrain signers --revoke 1f2e3d4c`
    """
    with client() as city:
        if sign:
            ref = parse_ref(sign)
            if ref.version is None:
                raise InvalidInput("--sign takes NAME@VERSION, with a number.")
            city.sign(ref.algorithm, ref.version)
            screen.print(f"{sign} is signed.")
            return
        found = city.revoke_signer(revoke) if revoke else (
            city.rotate_signer() if rotate else city.signers()
        )  # fmt: skip
    if json:
        show_json(found)
        return
    show_table(
        "Signers", ["name", "state", "since", "public key"],
        [[name, row["state"], row["since"][:19], row["public"]] for name, row in found.items()],
    )  # fmt: skip
