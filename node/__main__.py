"""`python -m node`: the node commands without the rest of the command line."""

from node.cli import node

node(prog_name="python -m node")
