"""`python -m model_store`: the store's commands where only this package is installed."""

from model_store.cli.app import main

if __name__ == "__main__":
    main()
