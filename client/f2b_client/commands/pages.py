"""Commands about the hospital's own pages."""

import typer
from rich.console import Console

from f2b_client.commands.options import HERE, Json, Site
from f2b_client.settings import SiteFolder
from face2bone_model.system.command import EXIT_STATUS, print_json

COMMANDS = typer.Typer()


@COMMANDS.command(epilog=EXIT_STATUS)
def report(site: Site = HERE, as_json: Json = False) -> None:
    """Write this hospital's own pages: cohort, preparation, training, the model on its patients, what left.

    Example: `f2b-client report --site /srv/face2bone/site`
    """
    from f2b_client.site_report import write_site_report

    path = write_site_report(SiteFolder(site))
    if as_json:
        print_json({"page": str(path)})
    else:
        Console().print(f"Open {path} in a browser. It holds this hospital's own figures: keep it inside.")
