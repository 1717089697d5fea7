"""`python -m coordinator.appliance`: the command `holdfast up` without the rest of the command line."""

from coordinator.appliance.command import up

if __name__ == "__main__":
    up(prog_name="holdfast up")
