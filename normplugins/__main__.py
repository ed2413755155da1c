"""``python -m normplugins``: the ``normplugins`` command."""

import sys

from normplugins.cli import main

sys.exit(main())
