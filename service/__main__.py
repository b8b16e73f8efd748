"""`python -m service` is `lars-agent`."""

from service.cli.main import main

main()
