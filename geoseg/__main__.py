"""`python -m geoseg`."""

from geoseg.cli.main import main

main(prog_name="geoseg")
