"""``python -m mmiotap`` is ``mmiotap``."""

import sys

from mmiotap.cli import main

sys.exit(main())
