"""A standalone host on the tiny checkpoint, and its routes on an app without a page."""

from __future__ import annotations

import os
import shutil

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from lib_lora.api import open_datasets
from lib_lora.api.app import add_routes
from lib_lora.api.guard import Guard
from lib_lora.api.studio import Studio
from lib_lora.hosts.standalone.host import StandaloneHost
from lib_lora.jobs.queue import JobQueue
from webui_server import start_webui  # noqa: F401 - a fixture of ours, too

LOCAL = "http://127.0.0.1:7861"


@pytest.fixture(autouse=True)
def closed_afterwards(monkeypatch):
    """No test sees another's datasets, and none asks the network for a vocabulary."""
    monkeypatch.setattr(open_datasets, "token_counter", lambda: lambda text: len(text.replace(",", " ,").split()))
    yield
    open_datasets.DATASETS.close_idle(longer_than=0)


@pytest.fixture
def make_host(tmp_path, tiny_checkpoint, pictures):
    """A host with the tiny checkpoint and the pictures, alone or open to others."""
    models = tmp_path / "models"
    shutil.copytree(tiny_checkpoint.parent, models / "Stable-diffusion", copy_function=os.link)
    (models / "Lora").mkdir()

    def make(exposed=False):
        return StandaloneHost(
            tmp_path / ("others" if exposed else "data"),
            models_dir=models,
            lora_dir=models / "Lora",
            dataset_dirs=[pictures],
            demo=None,
            exposed=exposed,
        )

    return make


@pytest.fixture
def make_studio(make_host):
    """A studio whose queue does nothing before ``start``; closed at the test's end."""
    made = []

    def make(exposed=False):
        host = make_host(exposed)
        made.append(JobQueue(host))
        return Studio(host, made[-1])

    yield make
    for queue in made:
        queue.close()


@pytest.fixture
def studio(make_studio):
    return make_studio()


@pytest.fixture
def values(train_options, tiny_checkpoint, tmp_path, pictures):
    """A form of three steps."""
    own = {name: value for name, value in train_options.items() if name != "output_dir"}
    return {
        **own,
        "pretrained_model_name_or_path": str(tmp_path / "models" / "Stable-diffusion" / tiny_checkpoint.name),
        "train_data_dir": str(pictures),
    }


@pytest.fixture
def client_of():
    """A client of a studio's routes, on an app without a page."""

    def make(studio, guard=None):
        app = FastAPI()
        add_routes(app, studio, guard or Guard(page=False))
        return TestClient(app, base_url=LOCAL)

    return make


@pytest.fixture
def client(client_of, studio):
    return client_of(studio)


@pytest.fixture
def exposed_client(client_of, make_studio):
    return client_of(make_studio(exposed=True))
