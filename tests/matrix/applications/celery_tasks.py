"""Tasks of Celery over a broker that is a folder, in a format of one's own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import shop
from celery import Celery
from celery.signals import setup_logging

from clew.integrations.celery import instrument

instrument()
setup_logging.connect(lambda **_: shop.configure_logging(), weak=False)


def folders(root: str) -> dict[str, Any]:
    """Return the options of a broker that keeps its messages in the folder `root`."""
    options = {name: str(Path(root) / name) for name in ("data_folder_in", "data_folder_out", "control_folder")}
    options["data_folder_out"] = options["data_folder_in"]
    for folder in options.values():
        Path(folder).mkdir(exist_ok=True)
    return options


application = Celery("shop", broker="filesystem://")
application.conf.broker_transport_options = folders(os.environ["BROKER_FOLDER"])
application.conf.worker_prefetch_multiplier = 1


@application.task(name="look_up")
def look_up(item: str) -> str:
    return shop.look_up(item)


@application.task(name="fail")
def fail() -> None:
    shop.fail()
