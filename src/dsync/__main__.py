"""`python -m dsync` is the command `dsync`."""

import sys

from dsync.cli import main

sys.exit(main())
