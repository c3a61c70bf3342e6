"""Answer `pip install .`: UIQA is used from its checkout and installs no package."""

import sys

if __name__ == "__main__":
    sys.exit(
        "UIQA is a repository of scripts, not a package: run `pip install -r requirements.txt` in the checkout, then "
        "`python predict.py --help`"
    )
