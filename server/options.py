"""Options that several of the coordinator's commands take."""

from pathlib import Path
from typing import Annotated

import typer

Home = Annotated[
    Path, typer.Option(envvar="CONSILIUM_HOME", help="the coordinator's folder; by default the current one")
]
Lines = Annotated[int, typer.Option("--lines", "-n", help="how many lines, from the end")]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="and every new line, until Ctrl-C")]
AsJson = Annotated[bool, typer.Option("--json", help="as the log has it, a JSON object a line")]
HERE = Path()
