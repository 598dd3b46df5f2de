"""`python -m p2pstream`."""

from p2pstream.cli import main

main()
