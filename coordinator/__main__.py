"""`python -m coordinator` is `holdfast coordinator`, without the rest of the command line."""

from coordinator.cli import coordinator

if __name__ == "__main__":
    coordinator(prog_name="holdfast coordinator")
