"""`python -m client` is `fedward-client`."""

from client.cli import main

if __name__ == "__main__":
    main()
