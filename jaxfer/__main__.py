"""`python -m jaxfer` is the console script `jaxfer`."""

import sys

from jaxfer.cli import main

sys.exit(main())
