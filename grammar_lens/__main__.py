"""`python -m grammar_lens`, the same as the command `grammar-lens`."""

from grammar_lens.cli import main

if __name__ == "__main__":
    main()
