"""`python -m policyc`."""

from policyc.cli.main import main

main()
