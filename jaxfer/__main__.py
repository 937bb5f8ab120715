"""`python -m jaxfer` is the console script `jaxfer`."""

import sys

from jaxfer.commands import main

sys.exit(main())
