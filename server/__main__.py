"""`python -m server` is `fedward-server`."""

from server.cli import main

main()
