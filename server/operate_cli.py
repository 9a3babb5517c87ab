"""The coordinator's commands for what runs.

server start|status|stop|logs      the server's processes
run start RECIPE [overrides]       begin a run over the federation
run status|logs|stop RUN           look at it, stop it; `run resume` goes on with it
federation status                  who is connected, and what the newest run knows of each site
"""

import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from models.catalogue import MODELS
from models.objectives import OBJECTIVES
from privacy.keys import FEDERATION, signer
from protocol import files
from protocol.children import kept, stop_keeper
from protocol.errors import SettingsError
from protocol.recipe import dump_recipe, load_recipe
from protocol.tail import follow, last_lines
from server.app import LOG, SIGNATURE
from server.book import new_folder, write_atomically
from server.cli import RunName, find_run
from server.control import Node, control
from server.enrol import pins_of
from server.federation import read_federation
from server.home import CoordinatorHome
from server.operate import HERE as LOOPBACK
from server.operate import serve
from server.record import Round, RunRecord, read_record
from server.runs import Wanted, is_over, read_submission, read_wanted, want
from server.runs import status as status_of
from strategies.catalogue import STRATEGIES, check_summed
