"""`python -m client` is the `holdfast` command, also where it is not installed."""

from client.cli.main import main

main()
