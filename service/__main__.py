"""`python -m service` is `lars-agent`."""

from service.cli import main

main()
