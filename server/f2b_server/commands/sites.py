"""Commands about the hospitals: kits out, public keys in, the roster."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from f2b_server.commands.options import Folder, Json, Site
from f2b_server.settings import StudyFolder
from face2bone_model.contract.errors import UsageError
from face2bone_model.system.command import EXIT_STATUS, print_json

COMMANDS = typer.Typer()


@COMMANDS.command(epilog=EXIT_STATUS)
def enrol(
    folder: Folder,
    site: Site,
    address: Annotated[str, typer.Option(help="host:port at which hospitals reach this centre.")],
    out: Annotated[Path, typer.Option("--out", metavar="KIT", help="The kit to write.")],
    as_json: Json = False,
) -> None:
    """Write a hospital's kit: address, CA certificate and study. It holds no secret, so any channel will do.

    Example: `f2b-server enrol study north --address fl.example.org:8443 --out north.kit.zip`
    """
    from f2b_server.enrolment import write_kit

    path = write_kit(StudyFolder(folder), site, address, out)
    if as_json:
        print_json({"kit": str(path)})
    else:
        Console().print(
            f"Send {path} to {site}. They run `f2b-client join {path.name}` and send back keys/node.pub."
        )


@COMMANDS.command(epilog=EXIT_STATUS)
def admit(
    folder: Folder,
    site: Site,
    public_key: Annotated[
        Path, typer.Argument(metavar="NODE_PUB", help="The file keys/node.pub the hospital sent.")
    ],
    as_json: Json = False,
) -> None:
    """Put a hospital's public key on the roster. Compare the fingerprint with the hospital by phone.

    Example: `f2b-server admit study north node.pub`
    """
    from f2b_server.enrolment import admit as admit_site
    from face2bone_model.contract.fingerprint import fingerprint

    if not public_key.exists():
        raise UsageError(f"{public_key} does not exist.", "Check the path.")
    entry = admit_site(StudyFolder(folder), site, public_key.read_bytes())
    if as_json:
        print_json({"site": entry.site, "fingerprint": fingerprint(entry.public_key)})
    else:
        Console(highlight=False).print(
            f"{entry.site} is on the roster: [bold]{fingerprint(entry.public_key)}[/]"
        )


@COMMANDS.command(epilog=EXIT_STATUS)
def roster(folder: Folder, as_json: Json = False) -> None:
    """List the admitted hospitals and the fingerprints of their keys.

    Example: `f2b-server roster study --json`
    """
    from f2b_server.enrolment import roster as admitted
    from face2bone_model.contract.fingerprint import fingerprint

    entries = admitted(StudyFolder(folder))
    if as_json:
        print_json([{**vars(entry), "fingerprint": fingerprint(entry.public_key)} for entry in entries])
        return
    table = Table("hospital", "fingerprint", "admitted")
    for entry in entries:
        table.add_row(entry.site, fingerprint(entry.public_key), entry.enrolled_at)
    Console().print(table)
