"""Lets the latency benchmark's test and its processes import the files beside it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
