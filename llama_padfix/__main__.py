"""`python -m llama_padfix`, the same as the command `llama-padfix`."""

import sys

from llama_padfix.cli import main

if __name__ == "__main__":
    sys.exit(main())
