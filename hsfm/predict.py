"""Command line `python -m hsfm.predict FOLDER --model FILE`: predict the classes of a folder's images."""

import sys

from hsfm.deploy.predict import main

if __name__ == "__main__":
    sys.exit(main())
