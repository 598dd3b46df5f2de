"""`python -m p2pstream`."""

from p2pstream.cli.main import main

main()
