"""`python -m clvq_hf.cli`: the command line without its script."""

from . import app

app(prog_name="clvq-hf")
