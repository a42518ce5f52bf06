"""What this project's pages say of runs, written from them by ``python -m csnb.pages``."""
