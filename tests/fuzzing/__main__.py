"""Read one hostile file in the foreground; or, started by the runner, be a child that reads many."""

import sys
from pathlib import Path

from fuzzing.mutations import ROOT
from fuzzing.runner import reproduce, serve

if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    if sys.argv[1] == "serve":
        serve(Path(sys.argv[2]), sys.argv[3:])
    else:
        reproduce(sys.argv[1], int(sys.argv[2]), *map(Path, sys.argv[3:4]))
