"""`python -m gateway.config FILE`: prints a file's settings, or its mistakes, as one JSON object."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from gateway.config.load import describe
from gateway.errors import ConfigError

try:
    print(json.dumps(describe(Path(sys.argv[1]))))
except ConfigError as error:
    print(json.dumps({"mistakes": [asdict(mistake) for mistake in error.mistakes]}))
