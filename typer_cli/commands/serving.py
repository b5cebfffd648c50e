"""`petavoxel site serve`: the embedded site as a Globus of its own on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from typer_cli import options
from typer_cli.options import Format, Output

if TYPE_CHECKING:
    from flows.local.http.serving import Address


def serve(
    port: Annotated[
        int,
        typer.Option(min=0, max=65535, help="0 takes a free port; globus-compute-sdk looks at 5000 only."),
    ] = 0,
    workers: options.Workers = None,
    output: Output = Format.TEXT,
) -> None:
    """Serve the embedded site as Globus Auth, Flows, Transfer, Search and Compute, until Ctrl-C.

    On 127.0.0.1 only. What it prints leads unmodified globus-sdk, globus-compute-sdk and globus-cli to it;
    the address shows the runs in a browser. The client's secret stays in its file.

    Example: petavoxel site serve --port 5000 --workers 2
    """
    from flows.local.http.serving import serve as serve_site
    from flows.site import home_folder, local_site

    home = home_folder()
    serve_site(
        home, local_site(home, workers=workers), port=port, on_ready=lambda where: _tell(where, output)
    )


def _tell(address: Address, output: Format) -> None:
    """Where it is, as lines for a shell or as one document."""
    import shlex
    import sys

    from typer_cli.output import print_json

    if output is Format.JSON:
        print_json(
            {
                "url": address.url,
                "variables": address.variables(),
                "client_id": address.client_id,
                "client_secret_path": str(address.client_secret_path),
                "control_token_path": str(address.control_token_path),
            }
        )
    else:
        secret = f'"$(cat {shlex.quote(str(address.client_secret_path))})"'
        lines = [f"export {name}={value}" for name, value in address.variables().items()]
        for client in ("GLOBUS_CLI", "GLOBUS_COMPUTE"):
            lines += [
                f"export {client}_CLIENT_ID={address.client_id}",
                f"export {client}_CLIENT_SECRET={secret}",
            ]
        where = (
            f"# runs: {address.url}   faults: {address.url}control/, token in {address.control_token_path}"
        )
        typer.echo("\n".join([where, *lines]))
    sys.stdout.flush()
