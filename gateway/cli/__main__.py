"""`python -m gateway.cli` is `headwater`."""

from gateway.cli import main

main()
