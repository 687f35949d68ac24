"""`python -m entropylong.cli`."""

from entropylong.cli import main

main()
