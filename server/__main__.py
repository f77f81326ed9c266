"""`python -m server` is the `deltaloop` command."""

import sys

from server.cli import main

sys.exit(main())
