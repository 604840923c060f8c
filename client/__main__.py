"""`python -m client` is `fedward-client`."""

from client.cli import main

main()
