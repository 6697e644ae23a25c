"""``python -m robodiff`` is ``robodiff``."""

from robodiff.cli.main import main

main()
