"""`python -m typer_cli`."""

from typer_cli.app import main

main()
