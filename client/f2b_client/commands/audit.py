"""Commands that show what left and what it cost: egress, privacy."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from f2b_client.commands.options import HERE, Json, Site
from f2b_client.settings import SiteFolder
from face2bone_model.system.command import EXIT_STATUS, print_json

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

COMMANDS = typer.Typer()
EGRESS = typer.Typer(help="Every release: when, to whom, what, and the very numbers.", no_args_is_help=True)
COMMANDS.add_typer(EGRESS, name="egress")

SHOWN = 50


@EGRESS.command("list", epilog=EXIT_STATUS)
def list_releases(
    site: Site = HERE,
    last: Annotated[
        int, typer.Option("--last", min=0, metavar="N", help="Show the newest N; 0 shows all.")
    ] = SHOWN,
    as_json: Json = False,
) -> None:
    """List what left this hospital: when, to whom, for which study and round, what, how many bytes.

    Refused requests are listed too: of them only an error's number left. `f2b-client egress show N` shows the very
    numbers of one release.

    Example: `f2b-client egress list --last 20`
    """
    from f2b_client.commands import audit_print
    from f2b_client.receipts import read_receipts

    folder = _site_folder(site)
    receipts = read_receipts(folder.receipts)
    if as_json:
        print_json([vars(receipt) for receipt in receipts[-last:]])
    else:
        names = audit_print.study_names(folder)
        audit_print.print_list(Console(highlight=False), receipts, receipts[-last:], names)


@EGRESS.command("show", epilog=EXIT_STATUS)
def show(
    number: Annotated[int, typer.Argument(metavar="N", help="The receipt's number, from `egress list`.")],
    site: Site = HERE,
    as_json: Json = False,
) -> None:
    """Show one release: its receipt and the very numbers that left.

    Tables are printed in full; of trained numbers, how many, the least, the greatest and their length. --json prints
    all of them.

    Example: `f2b-client egress show 3 --json`
    """
    from f2b_client.commands import audit_print
    from f2b_client.receipts import read_receipts
    from f2b_client.released import receipt_numbered, released

    folder = _site_folder(site)
    receipt = receipt_numbered(read_receipts(folder.receipts), number)
    content = released(folder, receipt)
    if as_json:
        print_json({"receipt": vars(receipt), **audit_print.as_plain(content)})
    else:
        console = Console(highlight=False)
        audit_print.print_receipt(console, receipt, audit_print.study_names(folder))
        audit_print.print_released(console, receipt, content)


@EGRESS.command("verify", epilog=EXIT_STATUS)
def verify_releases(
    path: Annotated[
        Path | None,
        typer.Argument(
            metavar="[PATH]", help="A site folder, a copied receipts.db, or an export; this site without it."
        ),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option("--key", metavar="FILE", help="The site's keys/receipts.pub, where PATH is a copy."),
    ] = None,
    site: Site = HERE,
    as_json: Json = False,
) -> None:
    """Check every signature, the chain of receipts, and the privacy ledger against them; name the first fault.

    Works offline on a copy, on a machine that has nothing but the copy and the site's public key. Beside a copied
    receipts.db, receipts.head and ledger.db are looked at too where they lie there.

    Example: `f2b-client egress verify receipts.jsonl --key harbour-receipts.pub`
    """
    from f2b_client.commands import audit_print
    from f2b_client.evidence import gather, verify
    from face2bone_model.contract.errors import RecordsError

    verdict = verify(gather(path or _site_folder(site).path), _key(site, path, key))
    if verdict.fault is not None:
        raise RecordsError(verdict.fault.what, verdict.fault.mend)
    if as_json:
        print_json({**vars(verdict), "agree": True})
    else:
        audit_print.print_verdict(Console(highlight=False), verdict)


@EGRESS.command("export", epilog=EXIT_STATUS)
def export_releases(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write the JSON lines.")],
    site: Site = HERE,
    as_json: Json = False,
) -> None:
    """Write receipts, charges and the note of the newest receipt as JSON lines, for an auditor to verify elsewhere.

    Example: `f2b-client egress export receipts.jsonl`
    """
    from f2b_client.evidence import export, gather

    evidence = gather(_site_folder(site).path)
    export(evidence, file)
    if as_json:
        print_json({"file": str(file), "receipts": len(evidence.receipts)})
        return
    public = SiteFolder(site).keys / "receipts.pub"
    console = Console(highlight=False)
    console.print(f"Wrote {len(evidence.receipts)} receipts to {file}.", markup=False, soft_wrap=True)
    console.print(
        f"Elsewhere: `f2b-client egress verify {file.name} --key receipts.pub`, with a copy of {public}.",
        markup=False,
        soft_wrap=True,
    )


@COMMANDS.command(epilog=EXIT_STATUS)
def privacy(site: Site = HERE, as_json: Json = False) -> None:
    """Show the privacy budget: spent and left by study and in all, the next round's cost, and how it was spent.

    Epsilon is counted over every round, study, run and server for the same patients; nothing gives it back. Two
    accountants are shown: RDP, which counts against the limit, and PLD, which is tighter.

    Example: `f2b-client privacy --site /srv/face2bone/site`
    """
    from dataclasses import asdict

    from f2b_client.budget import read_budget
    from f2b_client.commands import budget_print

    budget = read_budget(_site_folder(site))
    if as_json:
        print_json({**asdict(budget), "left": budget.left})
    else:
        budget_print.print_budget(Console(highlight=False), budget)


def _site_folder(site: Path) -> SiteFolder:
    from face2bone_model.contract.errors import EnrolmentError

    folder = SiteFolder(site)
    if not folder.keys.is_dir():
        raise EnrolmentError(
            f"{site} is no site folder.", "Give it with --site, or run `f2b-client join KIT`."
        )
    return folder


def _key(site: Path, path: Path | None, key: Path | None) -> "Ed25519PublicKey":
    """The key that was named, else the one of the folder that is looked at, else this site's."""
    from f2b_client.keys import read_public_key, receipt_public_key

    if key is not None:
        return read_public_key(key)
    here = path if path is not None and (path / "keys").is_dir() else site
    return receipt_public_key(SiteFolder(here))
